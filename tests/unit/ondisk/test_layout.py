"""Which label a disk has, what its partitions hold, and what is refused."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest

from tests.support.label import (
    FATVolume,
    Record,
    Table,
    extended_disk,
    mbr_sector,
    msdos_disk,
    short_entry,
)
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    OverlapError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits, probe
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.fat import is_fat
from vmsec.ondisk.layout import (
    BIOS_BOOT_TYPE,
    DiskLayout,
    fallback_ranges,
    free_ranges,
    read_layout,
    volume_extents,
)
from vmsec.ondisk.probe import Status
from vmsec.ondisk.source import MemorySource


def read(disk: bytes | bytearray, sector_bytes: int = 512) -> DiskLayout:
    return read_layout(MemorySource(disk, sector_bytes=sector_bytes))


def with_fat(first: int = 64, kind: int = 0x0C) -> bytearray:
    """An msdos disk with one FAT32 partition."""
    volume = FATVolume().build()
    sectors = len(volume) // 512
    disk = msdos_disk(
        first + sectors + 8, mbr_sector(Record(kind, first, sectors))
    )
    disk[first * 512 : first * 512 + len(volume)] = volume
    return disk


@pytest.mark.parametrize("declared", [512, 4096])
@pytest.mark.parametrize("written", [512, 4096])
def test_a_gpt_tells_its_sector_size_itself(
    declared: int, written: int
) -> None:
    disk = Table(sectors=2048, sector_bytes=written).build()
    layout = read(disk, declared)
    assert (layout.label, layout.sector_bytes) == ("gpt", written)
    assert layout.partitions[0].offset == 64 * written
    assert layout.extents[0] == (0, written, MetadataClass.LBA0)


def test_free_ranges_and_claims_fill_the_disk_without_overlap() -> None:
    layout = read(Table().build())
    taken = [(e.offset, e.length) for e in layout.extents]
    taken += [(p.offset, p.length) for p in layout.partitions]
    parts = sorted([*taken, *free_ranges(layout)])
    for (offset, length), (following, _) in itertools.pairwise(parts):
        assert offset + length == following
    assert sum(length for _, length in parts) == layout.size_bytes


def test_nothing_in_an_extended_partition_is_free() -> None:
    layout = read(extended_disk(3))
    assert free_ranges(layout) == (
        (512, 63 * 512),
        ((64 + 16000) * 512, 320 * 512),
    )
    assert layout.partitions[0].status is Status.CONTAINER
    tables = [e.offset // 512 for e in layout.extents]
    assert tables == [0, 64, 96, 128]


def test_partitions_of_unknown_content_are_left_to_the_fallback_rule() -> None:
    disk = bytearray(8 << 20)
    disk[:512] = mbr_sector(Record(0x83, 64, 8000), Record(0x83, 9000, 16))
    layout = read(disk)
    assert [p.status for p in layout.partitions] == ["unknown", "empty"]
    assert fallback_ranges(layout) == ((64 * 512, 8000 * 512),)


def test_a_file_system_is_mapped_relative_and_reported_absolute() -> None:
    layout = read(with_fat(first=64))
    assert layout.partitions[0].status is Status.FILESYSTEM
    content = layout.partitions[0].content
    assert content is not None
    assert content.extents[0].offset == 0
    assert [(e.offset, e.kind) for e in volume_extents(layout)][:2] == [
        (0, MetadataClass.LBA0),
        (64 * 512, MetadataClass.BOOT_SECTOR),
    ]


def test_a_whole_disk_file_system_is_partition_zero() -> None:
    layout = read(FATVolume().build())
    (whole,) = layout.partitions
    assert (layout.label, whole.number, whole.offset) == ("none", 0, 0)
    assert whole.length == layout.size_bytes
    assert volume_extents(layout)[0] == (0, 512, MetadataClass.LBA0)
    assert free_ranges(layout) == ()


def test_an_encrypted_whole_disk_is_not_touched_at_all() -> None:
    layout = read(b"LUKS\xba\xbe" + bytes(1 << 20))
    assert layout.partitions[0].status is Status.ENCRYPTED
    assert volume_extents(layout) == ()
    assert fallback_ranges(layout) == ()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1000, 5000])
def test_a_tiny_disk_is_read_without_falling_off_its_end(size: int) -> None:
    assert read(bytes(size)).label == "none"


def test_55aa_without_a_partition_is_no_label() -> None:
    assert read(mbr_sector() + bytes(9000)).label == "none"


def test_a_hybrid_mbr_that_repeats_the_gpt_is_noted() -> None:
    hybrid = mbr_sector(Record(0xEE, 1, 63), Record(0x83, 64, 64))
    layout = read(Table(mbr=hybrid).build())
    assert layout.label == "gpt"
    assert "hybrid MBR" in layout.notes


@pytest.mark.parametrize(
    "record", [Record(0x83, 64, 65), Record(0x0C, 600, 9)]
)
def test_a_hybrid_mbr_with_a_partition_of_its_own_is_refused(
    record: Record,
) -> None:
    hybrid = mbr_sector(Record(0xEE, 1, 63), record)
    with pytest.raises(CorruptImageError, match="no partition of the GPT"):
        read(Table(mbr=hybrid).build())


def test_a_protective_mbr_without_a_gpt_is_refused() -> None:
    disk = msdos_disk(4096, mbr_sector(Record(0xEE, 1, 4095)))
    with pytest.raises(CorruptImageError, match="primary GPT: no 'EFI PART'"):
        read(disk)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_gpt_header_behind_an_msdos_label_is_refused(
    sector_bytes: int,
) -> None:
    plain = mbr_sector(Record(0x83, 64, 64))
    disk = Table(mbr=plain, sector_bytes=sector_bytes).build()
    with pytest.raises(CorruptImageError, match="both an msdos label and"):
        read(disk)


def test_a_sector_that_is_boot_sector_and_table_is_refused() -> None:
    volume = FATVolume().build()
    volume[446:512] = mbr_sector(Record(0x83, 64, 64))[446:]
    with pytest.raises(CorruptImageError, match="both a partition table and"):
        read(volume)


def test_boot_code_that_looks_like_records_does_not_hide_a_fat() -> None:
    volume = FATVolume().build()
    volume[446:510] = b"\0ABCDEFGHIJKLMNO" * 4
    assert read(volume).partitions[0].status is Status.FILESYSTEM


def test_overlapping_partitions_are_refused() -> None:
    boot = mbr_sector(Record(0x83, 64, 64), Record(0x83, 127, 64))
    with pytest.raises(OverlapError, match="partition 1 and partition 2"):
        read(msdos_disk(4096, boot))


def test_a_primary_over_the_extended_partition_is_refused() -> None:
    disk = extended_disk(1)
    disk[446 + 16 : 446 + 32] = mbr_sector(Record(7, 9000, 64))[446:462]
    with pytest.raises(OverlapError, match="partition 1 and partition 2"):
        read(disk)


def test_a_logical_over_a_boot_record_is_refused() -> None:
    chain = {
        16: mbr_sector(Record(7, 8, 64), Record(5, 32, 64)),
        48: mbr_sector(Record(7, 48, 16)),
    }
    disk = msdos_disk(4096, mbr_sector(Record(5, 16, 2000)), chain)
    with pytest.raises(OverlapError, match="partition 5 and the partition-t"):
        read(disk)


def test_a_partition_on_the_boot_record_is_refused() -> None:
    disk = msdos_disk(4096, mbr_sector(Record(0x83, 0, 64)))
    with pytest.raises(UnsupportedFormatError, match="LBA 0"):
        read(disk)


def test_a_corrupt_file_system_is_refused_with_its_partition() -> None:
    disk = with_fat(first=64)
    at = 64 * 512 + (32 * 512) + 2 * 4
    disk[at : at + 4] = bytes(4)
    with pytest.raises(
        CorruptImageError, match=r"^partition 1 at byte 32768: FAT: .* to 0"
    ):
        read(disk)


def test_a_limit_is_reported_with_its_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_FAT_DIRECTORIES", 0)
    with pytest.raises(LimitExceededError, match=r"^whole disk at byte 0"):
        read(FATVolume(directories={2: short_entry(b"A", 9)}).build())


def test_what_a_parser_does_not_support_is_unknown_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise UnsupportedFormatError("feature x")

    broken = probe.Probe("fat", is_fat, refuse)  # type: ignore[arg-type]
    monkeypatch.setattr(probe, "PROBES", (broken,))
    (partition,) = read(with_fat()).partitions
    assert partition.status is Status.UNKNOWN
    assert partition.note == "fat: feature x"


def test_a_bios_boot_partition_is_a_boot_loader_whatever_it_looks_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "tests.support.label.LINUX_DATA",
        UUID(BIOS_BOOT_TYPE),
    )
    partition = read(Table().build()).partitions[0]
    assert partition.status is Status.UNKNOWN
    assert partition.note == "BIOS boot partition"
