"""The boot sector and run lists: every size and number before it is used."""

from __future__ import annotations

import pytest

from tests.support.ntfs_records import (
    DATA,
    SparseSource,
    Volume,
    away,
    mapping_pairs,
)
from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.ntfs import is_ntfs, map_ntfs
from vmsec.ondisk.ntfs.boot import boot_sector_copies, read_geometry
from vmsec.ondisk.ntfs.runlist import ClusterStream, Run, decode_runs
from vmsec.ondisk.source import MemorySource


def boot_source(**changes: int) -> SparseSource:
    """A volume whose boot sector has bytes replaced: ``at_<offset>=byte``."""
    source = Volume().source()
    boot = bytearray(source.pieces[0])
    for name, value in changes.items():
        boot[int(name.removeprefix("at_"))] = value
    source.pieces[0] = bytes(boot)
    return source


def test_ntfs_is_known_by_its_oem_identifier() -> None:
    assert is_ntfs(Volume().source())
    assert not is_ntfs(MemorySource(bytes(4096)))
    assert not is_ntfs(MemorySource(b"\xeb\x52\x90NTFS    "))
    assert not is_ntfs(MemorySource(b"\xeb\x58\x90-FVE-FS-" + bytes(512)))


def test_a_source_without_boot_sector_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="no NTFS boot sector"):
        map_ntfs(MemorySource(bytes(1 << 20)))


@pytest.mark.parametrize(
    ("sector", "code", "cluster"),
    [
        (512, 1, 512),
        (512, 128, 64 << 10),
        (512, 0xF4, 2 << 20),
        (4096, 1, 4096),
        (4096, 0xF8, 1 << 20),
        (1024, 2, 2048),
    ],
)
def test_every_coding_of_the_cluster_size_is_read(
    sector: int, code: int, cluster: int
) -> None:
    volume = Volume(
        clusters=64,
        cluster=cluster,
        sector=sector,
        sectors_per_cluster=code,
        mft_runs=[(4, 40)],
    )
    geometry = read_geometry(volume.source())
    assert geometry.sector_bytes == sector
    assert geometry.cluster_bytes == cluster
    assert geometry.clusters == 64


@pytest.mark.parametrize("code", [0, 3, 129, 0xF3])
def test_a_senseless_cluster_size_is_refused(code: int) -> None:
    with pytest.raises(CorruptImageError, match="sectors in a cluster"):
        read_geometry(boot_source(at_13=code))


def test_clusters_larger_than_any_driver_makes_are_refused() -> None:
    source = Volume(
        clusters=64, cluster=4 << 20, sector=4096, sectors_per_cluster=0xF6
    ).source()
    with pytest.raises(UnsupportedFormatError, match="clusters of 4194304"):
        read_geometry(source)


@pytest.mark.parametrize("high", [0, 1, 3, 0x20])
def test_sector_sizes_that_do_not_exist_are_refused(high: int) -> None:
    with pytest.raises(UnsupportedFormatError, match="sectors of"):
        read_geometry(boot_source(at_11=0, at_12=high))


@pytest.mark.parametrize(
    ("code", "size"), [(0xF6, 1024), (0xF4, 4096), (1, 4096), (0xF7, 512)]
)
def test_every_coding_of_the_record_size_is_read(code: int, size: int) -> None:
    assert read_geometry(boot_source(at_64=code)).record_bytes == size


@pytest.mark.parametrize("code", [0, 3, 0x7F, 0x80, 0xFF])
def test_record_sizes_that_no_driver_makes_are_refused(code: int) -> None:
    with pytest.raises(UnsupportedFormatError, match="FILE records of"):
        read_geometry(boot_source(at_64=code))


def test_a_volume_larger_than_its_partition_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="of its partition"):
        read_geometry(boot_source(at_47=0x7F))


@pytest.mark.parametrize("place", [50, 58])
def test_an_mft_or_mirror_outside_the_volume_is_refused(place: int) -> None:
    with pytest.raises(CorruptImageError, match="places"):
        read_geometry(boot_source(**{f"at_{place}": 1}))


def test_the_copy_behind_the_volume_is_mapped_where_the_partition_grew() -> (
    None
):
    volume = Volume(extra_bytes=1 << 20)
    source = volume.source()
    behind = volume.clusters * volume.cluster
    source.write(source.size_bytes - 512, volume.boot())
    copies = boot_sector_copies(source, read_geometry(source))
    assert copies == (behind, source.size_bytes - 512)
    mapped = {
        extent.offset
        for extent in map_ntfs(source).extents
        if extent.kind is MetadataClass.BOOT_SECTOR
    }
    assert mapped == {0, behind, source.size_bytes - 512}


def test_the_copy_in_the_middle_and_behind_the_last_cluster_are_found() -> (
    None
):
    volume = Volume(extra_bytes=8192)
    source = volume.source()
    size = volume.clusters * volume.cluster
    places = (size // 2, size, size + 4096 - 512)
    for place in places:
        source.write(place, volume.boot())
    assert boot_sector_copies(source, read_geometry(source)) == places


def test_a_sector_that_is_no_copy_is_left_alone() -> None:
    volume = Volume(extra_bytes=0)
    source = volume.source()
    geometry = read_geometry(source)
    unsigned = volume.boot()[:510] + bytes(2)
    for content in (b"user data".ljust(512, b"!"), unsigned):
        source.pieces[source.size_bytes - 512] = content
        assert boot_sector_copies(source, geometry) == ()


def test_runs_go_forwards_backwards_and_over_holes() -> None:
    runs = decode_runs(
        away(DATA, [(100, 5), (None, 7), (40, 300), (41000, 1)]), 50000
    )
    assert runs == (
        Run(0, 100, 5),
        Run(5, None, 7),
        Run(12, 40, 300),
        Run(312, 41000, 1),
    )


def test_runs_of_a_later_part_begin_at_its_lowest_vcn() -> None:
    part = away(DATA, [(9, 4)], lowest=77)
    assert decode_runs(part, 100) == (Run(77, 9, 4),)


@pytest.mark.parametrize("highest", [-1, 0])
def test_an_empty_attribute_has_no_runs(highest: int) -> None:
    assert decode_runs(away(DATA, b"\0", highest=highest), 100) == ()


def test_a_hole_of_ntfs_1_2_is_a_run_at_minus_one() -> None:
    pairs = b"\x11\x05\xff" + b"\0"
    runs = decode_runs(away(DATA, pairs, highest=4), 100)
    assert runs == (Run(0, None, 5),)


def test_runs_beyond_four_billion_clusters_are_read() -> None:
    lcn = 1 << 33
    runs = decode_runs(away(DATA, [(lcn, 1 << 32)]), 1 << 34)
    assert runs == (Run(0, lcn, 1 << 32),)


@pytest.mark.parametrize(
    ("pairs", "highest"),
    [
        (mapping_pairs([(99, 2)]), 1),
        (b"\x11\x05\xf0\0", 4),
        (b"\x81\x05" + b"\xff" * 7 + b"\x7f\0", 4),
        (b"\x18" + b"\xff" * 7 + b"\x7f\x01\0", 4),
        (b"\x11\xfb\x01\0", 4),
        (b"\x11\x00\x01\0", -1),
        (b"\x10\x05\0", 4),
    ],
    ids=[
        "past-the-end",
        "negative-lcn",
        "huge-lcn",
        "huge-length",
        "negative-length",
        "no-length",
        "no-length-bytes",
    ],
)
def test_a_run_outside_the_volume_is_refused(
    pairs: bytes, highest: int
) -> None:
    with pytest.raises(CorruptImageError, match="is not inside the"):
        decode_runs(away(DATA, pairs, highest=highest), 100)


@pytest.mark.parametrize("pairs", [b"\xff", b"\x1a\x01", b"\x44\x01"])
def test_a_run_list_that_breaks_off_is_refused(pairs: bytes) -> None:
    with pytest.raises(CorruptImageError, match="breaks off"):
        decode_runs(away(DATA, pairs, highest=0), 100)


def test_a_run_of_more_than_64_bits_is_refused() -> None:
    pairs = b"\x1f" + b"\x01" * 15 + b"\x01\0"
    with pytest.raises(CorruptImageError, match="breaks off"):
        decode_runs(away(DATA, pairs, highest=0), 100)


@pytest.mark.parametrize("highest", [0, 5, -1, (1 << 63) - 1])
def test_a_run_list_unlike_its_head_is_refused(highest: int) -> None:
    with pytest.raises(CorruptImageError, match="its head says"):
        decode_runs(away(DATA, [(10, 5)], highest=highest), 100)


@pytest.mark.parametrize("start", [0, 0x3F, 0xFFFF])
def test_a_run_list_outside_its_attribute_is_refused(start: int) -> None:
    raw = bytearray(away(DATA, [(10, 5)]))
    raw[0x20:0x22] = start.to_bytes(2, "little")
    with pytest.raises(CorruptImageError, match="head of a run list"):
        decode_runs(bytes(raw), 100)


def test_a_stream_reads_over_the_borders_of_its_runs() -> None:
    source = MemorySource(bytes(range(256)) * 32)
    stream = ClusterStream(source, 512)
    stream.extend((Run(0, 8, 1), Run(1, 3, 2)))
    assert stream.size_bytes == 3 * 512
    whole = source.read_at(8 * 512, 512) + source.read_at(3 * 512, 1024)
    assert stream.read(0, 1536) == whole
    assert stream.read(500, 600) == whole[500:1100]


def test_a_stream_refuses_holes_ends_and_gaps() -> None:
    stream = ClusterStream(MemorySource(bytes(8192)), 512)
    with pytest.raises(CorruptImageError, match="not allocated"):
        stream.read(0, 1)
    stream.extend((Run(0, 1, 1), Run(1, None, 1)))
    for place, length in ((512, 1), (1024, 1), (0, 513)):
        with pytest.raises(CorruptImageError, match="not allocated"):
            stream.read(place, length)
    with pytest.raises(CorruptImageError, match="goes on at VCN 5, not at 2"):
        stream.extend((Run(5, 1, 1),))
