"""What an msdos label may say, and each lie by name."""

from __future__ import annotations

import pytest

from tests.support.label import Record, extended_disk, mbr_sector, msdos_disk
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits, mbr
from vmsec.ondisk.source import MemorySource

LINUX = Record(0x83, 8, 16)


def read(disk: bytearray, sector_bytes: int = 512) -> mbr.MBRTable:
    source = MemorySource(disk, sector_bytes=sector_bytes)
    return mbr.read_table(source, sector_bytes=sector_bytes)


def test_primaries_keep_their_slots_and_empty_records_are_skipped() -> None:
    boot = mbr_sector(Record(0, 0, 0), Record(0x07, 64, 100, 0x80), LINUX)
    table = read(msdos_disk(256, boot))
    assert table.partitions == (
        mbr.MBRPartition(2, 0x07, 64, 100),
        mbr.MBRPartition(3, 0x83, 8, 16),
    )
    assert table.ebr_lbas == ()


@pytest.mark.parametrize("kind", [0x05, 0x0F, 0x85])
def test_logicals_are_numbered_from_five_and_start_behind_their_ebr(
    kind: int,
) -> None:
    disk = extended_disk(10)
    disk[446 + 4] = kind
    table = read(disk)
    assert [p.number for p in table.partitions] == [1, *range(5, 15)]
    assert table.partitions[0].is_container
    assert table.partitions[3] == mbr.MBRPartition(7, 0x83, 64 + 72, 16)
    assert table.ebr_lbas == tuple(range(64, 64 + 320, 32))


def test_the_first_boot_record_may_hold_only_a_link() -> None:
    chain = {
        16: mbr_sector(Record(0, 0, 0), Record(5, 40, 40)),
        56: mbr_sector(LINUX),
    }
    table = read(msdos_disk(256, mbr_sector(Record(5, 16, 200)), chain))
    assert table.partitions[1] == mbr.MBRPartition(5, 0x83, 64, 16)


def test_4096_byte_sectors_place_the_chain_eight_times_further() -> None:
    disk = bytearray(64 * 4096)
    disk[:512] = mbr_sector(Record(5, 4, 50))
    disk[4 * 4096 : 4 * 4096 + 512] = mbr_sector(LINUX)
    table = read(disk, sector_bytes=4096)
    assert table.partitions[1] == mbr.MBRPartition(5, 0x83, 12, 16)


def test_a_sector_without_signature_is_no_table() -> None:
    sector = mbr_sector(LINUX, signature=b"\0\0")
    assert not mbr.is_label(sector)
    with pytest.raises(CorruptImageError, match="55AA"):
        mbr.parse_mbr(sector)


@pytest.mark.parametrize(
    "sector",
    [
        mbr_sector(),
        mbr_sector(LINUX._replace(boot_indicator=0x41)),
        mbr_sector(LINUX)[:-3],
    ],
    ids=["no partition", "foreign boot indicator", "short"],
)
def test_boot_code_with_55aa_is_no_label(sector: bytes) -> None:
    assert not mbr.is_label(sector)


def test_a_label_is_plausible_only_inside_the_disk() -> None:
    sector = mbr_sector(LINUX)
    assert mbr.is_plausible(sector, 24)
    assert not mbr.is_plausible(sector, 23)
    assert not mbr.is_plausible(mbr_sector(Record(0x83, 0, 5)), 24)


PRIMARY_LIES = {
    "ends at sector 300": (Record(0x83, 200, 100), CorruptImageError),
    "type 0": (Record(0, 8, 16), CorruptImageError),
    "boot indicator 01": (Record(0x83, 8, 16, 1), CorruptImageError),
    "begins in LBA 0": (Record(0x83, 0, 16), UnsupportedFormatError),
}


@pytest.mark.parametrize("text", PRIMARY_LIES)
def test_a_primary_that_readers_see_differently_is_refused(text: str) -> None:
    record, error = PRIMARY_LIES[text]
    with pytest.raises(error, match=text):
        read(msdos_disk(256, mbr_sector(record)))


def test_two_extended_partitions_are_refused() -> None:
    boot = mbr_sector(Record(5, 16, 20), Record(15, 64, 20))
    with pytest.raises(UnsupportedFormatError, match="both extended"):
        read(msdos_disk(256, boot, {16: mbr_sector(), 64: mbr_sector()}))


CHAIN_LIES = {
    "returns to LBA 16": mbr_sector(LINUX, Record(5, 0, 8)),
    "leaves extended partition 1 for LBA 216": mbr_sector(
        LINUX, Record(5, 200, 8)
    ),
    "LBA 16: no 55AA": mbr_sector(LINUX, signature=b"\x55\xab"),
    "more than one partition": mbr_sector(LINUX, Record(0x83, 40, 9)),
    "and one link": mbr_sector(Record(5, 40, 9), Record(5, 60, 9)),
    "LBA 16: more than": mbr_sector(
        LINUX, Record(0, 0, 0), Record(0x83, 60, 9)
    ),
    "logical partition 5 at LBA 24 of 193": mbr_sector(Record(7, 8, 193)),
    "logical partition 5 at LBA 16": mbr_sector(Record(7, 0, 16)),
    "type 0": mbr_sector(Record(0, 8, 16)),
}


@pytest.mark.parametrize("text", CHAIN_LIES)
def test_a_broken_chain_is_refused(text: str) -> None:
    boot = mbr_sector(Record(5, 16, 200))
    with pytest.raises(CorruptImageError, match=text):
        read(msdos_disk(256, boot, {16: CHAIN_LIES[text]}))


def test_a_ring_of_several_boot_records_is_found() -> None:
    chain = {
        16: mbr_sector(LINUX, Record(5, 48, 8)),
        64: mbr_sector(LINUX, Record(5, 96, 8)),
        112: mbr_sector(LINUX, Record(5, 48, 8)),
    }
    with pytest.raises(CorruptImageError, match="returns to LBA 64"):
        read(msdos_disk(256, mbr_sector(Record(5, 16, 200)), chain))


def test_a_chain_beyond_the_limit_is_refused() -> None:
    read(extended_disk(limits.MAX_EBR_CHAIN))
    with pytest.raises(LimitExceededError, match="more than 256"):
        read(extended_disk(limits.MAX_EBR_CHAIN + 1))


def test_a_protective_record_must_begin_at_lba_1() -> None:
    assert mbr.is_protective(mbr.parse_mbr(mbr_sector(Record(0xEE, 1, 9))))
    assert not mbr.is_protective(mbr.parse_mbr(mbr_sector(LINUX)))
    with pytest.raises(CorruptImageError, match="does not begin at LBA 1"):
        mbr.is_protective(mbr.parse_mbr(mbr_sector(Record(0xEE, 2, 9))))
