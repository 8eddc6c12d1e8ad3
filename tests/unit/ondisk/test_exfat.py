"""What an exFAT may say, and each lie by name."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.exfat_volume import END, SECTOR, ExFATVolume, entry_set
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits, probe
from vmsec.ondisk.exfat import is_exfat, map_exfat
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.fattable import FATTable
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from vmsec.ondisk.extent import VolumeMap


def mapped(volume: ExFATVolume) -> VolumeMap:
    return map_exfat(MemorySource(volume.build()))


def clusters(volume: ExFATVolume) -> list[int]:
    """The clusters that the map calls directories."""
    size = volume.cluster_bytes
    return [
        at // size + 2
        for e in mapped(volume).extents
        if e.kind is MetadataClass.DIRECTORY
        for at in range(e.offset - volume.heap, e.end - volume.heap, size)
    ]


def test_boot_regions_table_bitmap_and_up_case_table_are_mapped() -> None:
    found = mapped(ExFATVolume.blank())
    assert [(e.kind.value, e.offset, e.length) for e in found.extents] == [
        ("boot-sector", 0, 24 * SECTOR),
        ("fat-table", 24 * SECTOR, 3 * SECTOR),
        ("bitmap", 128 * SECTOR, 4096),
        ("system-file", 128 * SECTOR + 4096, 4096),
        ("directory", 128 * SECTOR + 8192, 4096),
    ]
    assert (found.filesystem, found.notes) == ("exfat", ())


def test_directories_are_found_at_every_depth_chained_or_not() -> None:
    volume = ExFATVolume.blank()
    outer = volume.mkdir("outer", count=3)
    inner = volume.mkdir("inner", outer, count=4, contiguous=True)
    file = volume.write("a file", b"body" * 3000, inner)
    deepest = volume.mkdir("deepest", inner)
    wanted = sorted(
        [4, *outer.clusters, *inner.clusters, *deepest.clusters]
    )  # fmt: skip
    assert clusters(volume) == wanted
    assert not set(file) & set(wanted)


def test_a_full_directory_needs_no_end_and_a_chain_may_be_one_run() -> None:
    volume = ExFATVolume.blank()
    chain = volume.link([60, 61, 62])
    volume.root.content += entry_set("full", 60, 0, folder=True, flags=1)
    for cluster in chain:
        start = volume.offset(cluster)
        volume.data[start : start + 4096] = 128 * (b"\x05" + bytes(31))
    found = mapped(volume)
    assert clusters(volume) == [4, *chain]
    assert len(found.extents) == 6


@pytest.mark.parametrize("before", [2045, 2046, 2047, 2048])
def test_an_entry_set_may_straddle_what_is_read_at_once(before: int) -> None:
    volume = ExFATVolume.blank()
    outer = volume.mkdir("outer", count=17, contiguous=True)
    outer.content = before * (b"\x05" + bytes(31))
    inner = volume.mkdir("inner", outer)
    assert set(inner.clusters) < set(clusters(volume))


@pytest.mark.parametrize(
    "entry",
    [
        entry_set("deleted", 90, 4096, folder=True, flags=1)
        .replace(b"\x85", b"\x05", 1)
        .replace(b"\xc0", b"\x40", 1),
        entry_set("a file", 90, 4096, folder=False, flags=3),
        entry_set("without clusters", 0, 0, folder=True, flags=1),
        bytes(32) + entry_set("after", 90, 4096, folder=True, flags=3),
    ],
    ids=["deleted", "file", "empty", "behind the end"],
)
def test_what_is_no_live_directory_is_not_followed(entry: bytes) -> None:
    volume = ExFATVolume.blank()
    volume.root.content += entry
    assert clusters(volume) == [4]


def test_a_directory_with_a_wrong_checksum_is_followed() -> None:
    volume = ExFATVolume.blank()
    folder = volume.mkdir("folder")
    at = volume.root.content.index(b"\x85") + 2
    content = bytearray(volume.root.content)
    content[at : at + 2] = b"\0\0"
    volume.root.content = bytes(content)
    assert clusters(volume) == [4, *folder.clusters]


def boot(volume: ExFATVolume, at: int, layout: str, value: int) -> None:
    struct.pack_into(layout, volume.data, at, value)
    volume.sign()


UNSUPPORTED = {
    "revision 2": (104, "<H", 0x200),
    r"2 tables \(TexFAT\)": (110, "<B", 2),
    "TexFAT": (106, "<H", 1),
}


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_what_revision_1_does_not_know_makes_the_volume_unknown(
    text: str,
) -> None:
    volume = ExFATVolume.blank()
    boot(volume, *UNSUPPORTED[text])
    source = MemorySource(volume.build())
    with pytest.raises(UnsupportedFormatError, match=text):
        map_exfat(source)
    assert probe.probe_volume(source).status is probe.Status.UNKNOWN


BOOT_LIES = {
    "sectors of 2^8": (108, "<B", 8),
    "sectors of 2^13": (108, "<B", 13),
    "clusters of 2^17": (109, "<B", 17),
    "signature of 0000": (510, "<H", 0),
    "do not fit into a volume of 512 bytes": (72, "<Q", 1),
    "bytes on 1114112": (72, "<Q", 1 << 60),
    "clusters at 65536": (92, "<I", 257),
    "0 clusters": (92, "<I", 0),
    "at 11776": (80, "<I", 23),
    "at 53760": (88, "<I", 105),
    "a table of 1024": (84, "<I", 2),
    "leads to 1;": (96, "<I", 1),
    "leads to 258;": (96, "<I", 258),
}


@pytest.mark.parametrize("text", BOOT_LIES)
def test_a_boot_sector_that_contradicts_itself_is_refused(text: str) -> None:
    volume = ExFATVolume.blank()
    if text == "at 53760":
        boot(volume, 80, "<I", 104)
    boot(volume, *BOOT_LIES[text])
    source = MemorySource(volume.data)
    assert is_exfat(source)
    with pytest.raises(CorruptImageError, match=text.replace("^", r"\^")):
        map_exfat(source)


def test_a_boot_region_with_a_wrong_checksum_is_refused() -> None:
    volume = ExFATVolume.blank()
    volume.data[700] ^= 1
    with pytest.raises(CorruptImageError, match="checksum of the boot region"):
        mapped(volume)


def test_a_stale_backup_and_a_dirty_volume_are_only_told() -> None:
    volume = ExFATVolume.blank()
    volume.data[12 * SECTOR + 700] ^= 1
    # VolumeDirty and PercentInUse are not part of the checksum.
    volume.data[106], volume.data[112] = 2, 50
    assert mapped(volume).notes == (
        "the guest did not unmount the file system",
        "the backup of the boot region has a wrong checksum",
    )


def root_of(*entries: bytes) -> ExFATVolume:
    volume = ExFATVolume.blank()
    volume.root.content = b"".join(entries)
    return volume


BITMAP = struct.pack("<B19xIQ", 0x81, 2, 32)
UPCASE = struct.pack("<B19xIQ", 0x82, 3, 256)
FOLDER = entry_set("folder", 90, 8192, folder=True, flags=3)


def test_an_unknown_critical_entry_makes_the_volume_unknown() -> None:
    volume = root_of(BITMAP, UPCASE, b"\x86" + bytes(31))
    with pytest.raises(UnsupportedFormatError, match="type 0x86"):
        mapped(volume)


def test_an_unknown_benign_entry_is_passed_over() -> None:
    volume = root_of(BITMAP, b"\xa0" + bytes(31), b"\x83" + bytes(31), UPCASE)
    assert clusters(volume) == [4]


ROOT_LIES = {
    "two entries of type 0x81": (BITMAP, BITMAP, UPCASE),
    "no allocation bitmap": (UPCASE,),
    "no up-case": (BITMAP,),
    "without a stream extension": (BITMAP, UPCASE, FOLDER[:32]),
    "begin in cluster 90": (BITMAP, UPCASE, FOLDER, FOLDER),
    "begin in cluster 4": (
        BITMAP,
        UPCASE,
        entry_set("root", 4, 4096, folder=True, flags=1),
    ),
    "used twice": (
        BITMAP,
        UPCASE,
        FOLDER,
        entry_set("folder", 91, 4096, folder=True, flags=3),
    ),
    "2 clusters from 257": (
        BITMAP,
        UPCASE,
        entry_set("folder", 257, 8192, folder=True, flags=3),
    ),
    "0 clusters from 90": (
        BITMAP,
        UPCASE,
        entry_set("folder", 90, 0, folder=True, flags=3),
    ),
    "too few for 8192 bytes": (
        BITMAP,
        struct.pack("<B19xIQ", 0x82, 3, 8192),
    ),
    "leads to 0;": (
        BITMAP,
        UPCASE,
        entry_set("folder", 90, 4096, folder=True, flags=1),
    ),
}


@pytest.mark.parametrize("text", ROOT_LIES)
def test_a_directory_that_contradicts_itself_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match=text):
        mapped(root_of(*ROOT_LIES[text]))


def test_a_chain_that_bites_its_tail_ends_at_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_EXFAT_DIRECTORY_BYTES", 64 << 10)
    volume = ExFATVolume.blank()
    folder = volume.mkdir("folder", count=3)
    struct.pack_into(
        "<I", volume.data, volume.fat + 4 * folder.clusters[2],
        folder.clusters[0],
    )  # fmt: skip
    with pytest.raises(LimitExceededError, match="length of a chain"):
        mapped(volume)


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [
        ("DIRECTORY_BYTES", 4096, "length of an allocation"),
        ("DIRECTORIES", 2, "number of directories"),
        ("CHAINED_CLUSTERS", 4, "clusters of directories"),
        ("ENTRY_BYTES", 16384, "bytes of directories"),
    ],
)
def test_more_than_anybody_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int, text: str
) -> None:
    volume = ExFATVolume.blank()
    outer = volume.mkdir("outer", count=2)
    outer.content = b"\x05" * 4096
    volume.mkdir("inner", outer)
    assert len(clusters(volume)) == 4
    monkeypatch.setattr(limits, f"MAX_EXFAT_{name}", limit)
    with pytest.raises(LimitExceededError, match=text):
        mapped(volume)


def test_only_all_ones_end_a_chain_of_exfat() -> None:
    entries = struct.pack("<8I", 0, 0, 3, 0xFFFFFFF8, END, 0, 0, 0)
    table = FATTable(
        MemorySource(entries), 0, 6, bits=32, is_exfat=True
    )  # fmt: skip
    assert list(table.chain(4)) == [4]
    with pytest.raises(CorruptImageError, match=r"4294967288.*fsck\.exfat"):
        list(table.chain(2))


def test_a_disk_that_is_one_exfat_is_a_boot_sector_not_a_label() -> None:
    volume = ExFATVolume.blank().build()
    assert probe.is_boot_sector(MemorySource(volume))
    assert not is_exfat(MemorySource(volume[:511]))
    volume[20] = 1
    assert not is_exfat(MemorySource(volume))
