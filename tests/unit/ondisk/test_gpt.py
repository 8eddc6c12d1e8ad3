"""What a GPT may say, and each lie by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.label import LINUX_DATA, Table
from vmsec.errors import (
    CorruptImageError,
    FormatError,
    LimitExceededError,
    OverlapError,
    UnsupportedFormatError,
)
from vmsec.ondisk import gpt
from vmsec.ondisk.source import MemorySource


def read(disk: bytearray, sector_bytes: int = 512) -> gpt.GPT:
    return gpt.read_gpt(MemorySource(disk), sector_bytes=sector_bytes)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_both_sector_sizes_are_found_and_read(sector_bytes: int) -> None:
    disk = Table(sectors=1024, sector_bytes=sector_bytes).build()
    assert gpt.find_sector_bytes(MemorySource(disk)) == sector_bytes
    table = read(disk, sector_bytes)
    assert [(p.number, p.first_lba, p.sectors) for p in table.partitions] == [
        (1, 64, 64),
        (2, 256, 256),
    ]
    assert table.partitions[0].type_guid == LINUX_DATA
    assert table.notes == ()


def test_every_structure_is_an_extent() -> None:
    table = read(Table(sectors=4096).build())
    assert sorted((e.offset // 512, e.length // 512) for e in table.extents) \
        == [(1, 1), (2, 32), (4063, 32), (4095, 1)]  # fmt: skip


def test_a_short_array_still_fills_whole_sectors() -> None:
    table = read(Table(entry_count=2, sector_bytes=512).build())
    assert {e.length for e in table.extents} == {512}


def test_larger_entries_of_a_power_of_two_are_read() -> None:
    table = read(Table(entry_bytes=256, partitions=[(99, 200)]).build())
    assert [p.sectors for p in table.partitions] == [102]


def test_a_disk_that_was_grown_keeps_its_backup_at_the_old_end() -> None:
    disk = Table(sectors=8192, alternate_lba=4095).build()
    table = read(disk)
    assert any("the disk was grown" in note for note in table.notes)
    assert max(e.end for e in table.extents) == 4096 * 512


def test_a_second_backup_at_the_new_end_is_refused() -> None:
    disk = Table(sectors=8192, alternate_lba=4095).build()
    disk[-512:-504] = b"EFI PART"
    with pytest.raises(CorruptImageError, match="two backup GPTs"):
        read(disk)


def test_a_backup_that_is_nothing_but_zeros_is_noted() -> None:
    disk = Table().build()
    disk[-33 * 512 :] = bytes(33 * 512)
    table = read(disk)
    assert gpt.NOTE_NO_BACKUP in table.notes
    assert len(table.extents) == 2


@pytest.mark.parametrize("at", [-33 * 512, -1])
def test_a_backup_that_is_not_all_zero_is_refused(at: int) -> None:
    disk = Table().build()
    disk[-33 * 512 :] = bytes(33 * 512)
    disk[at] = 1
    with pytest.raises(CorruptImageError, match=r"backup GPT: .*sgdisk"):
        read(disk)


@pytest.mark.parametrize("at", [512, 512 + 60, 1024 + 40])
def test_a_damaged_primary_is_refused_and_the_backup_is_named(at: int) -> None:
    disk = Table().build()
    disk[at] ^= 1
    with pytest.raises(CorruptImageError, match=r"primary .*whole.*sgdisk"):
        read(disk)


def test_with_both_copies_damaged_no_backup_is_promised() -> None:
    disk = Table().build()
    disk[512 + 60] ^= 1
    disk[-512 + 60] ^= 1
    with pytest.raises(CorruptImageError, match="there is no whole backup"):
        read(disk)


@pytest.mark.parametrize("at", [-512, -512 + 60, -33 * 512 + 40])
def test_a_damaged_backup_is_refused(at: int) -> None:
    disk = Table().build()
    disk[at] ^= 1
    with pytest.raises(CorruptImageError, match=r"backup GPT: .*sgdisk"):
        read(disk)


def test_copies_that_are_whole_but_differ_are_refused() -> None:
    disk = Table().build()
    other = Table(partitions=[(64, 127)]).build()
    disk[-33 * 512 :] = other[-33 * 512 :]
    with pytest.raises(CorruptImageError, match="different tables"):
        read(disk)


def test_headers_for_both_sector_sizes_are_refused() -> None:
    disk = Table(sectors=1024, sector_bytes=4096).build()
    disk[512:520] = b"EFI PART"
    with pytest.raises(CorruptImageError, match="for 4096-byte sectors"):
        gpt.find_sector_bytes(MemorySource(disk))


def test_no_header_is_no_sector_size() -> None:
    assert gpt.find_sector_bytes(MemorySource(bytes(9000))) is None
    assert gpt.find_sector_bytes(MemorySource(bytes(100))) is None


HEADER_LIES: dict[str, tuple[dict[str, int], type[FormatError]]] = {
    "claims 91 bytes": ({"header_bytes": 91}, CorruptImageError),
    "claims 513 bytes": ({"header_bytes": 513}, CorruptImageError),
    "says it is at LBA 2": ({"my_lba": 2}, CorruptImageError),
    "revision 0x00020000": ({"revision": 0x20000}, UnsupportedFormatError),
    "entries of 64 bytes": ({"entry_bytes": 64}, UnsupportedFormatError),
    "entries of 192 bytes": ({"entry_bytes": 192}, UnsupportedFormatError),
    "entries of 8192 bytes": ({"entry_bytes": 8192}, UnsupportedFormatError),
    "room for no entry": ({"entry_count": 0}, CorruptImageError),
    "length of the GPT entry array": (
        {"entry_count": 8193},
        LimitExceededError,
    ),
    "outside the": ({"entries_lba": 1 << 40}, CorruptImageError),
    "CRC of the entry array": ({"entries_crc": 7}, CorruptImageError),
    "the disk ends at LBA 4095": ({"alternate_lba": 4096}, CorruptImageError),
    "not in order": ({"first_usable": 33}, CorruptImageError),
    "usable sectors": ({"last_usable": 4095}, CorruptImageError),
    "array, usable": ({"last_usable": 33}, CorruptImageError),
}


@pytest.mark.parametrize("text", HEADER_LIES)
def test_a_lie_in_the_primary_header_is_refused(text: str) -> None:
    fields, error = HEADER_LIES[text]
    with pytest.raises(error, match=text):
        read(Table(primary=fields).build())


def test_an_array_inside_the_header_is_refused() -> None:
    disk = Table(primary={"entries_lba": 1, "entries_crc": 0}).build()
    with pytest.raises(CorruptImageError, match="CRC"):
        read(disk)


BACKUP_LIES: dict[str, dict[str, Any]] = {
    "different tables": {"last_usable": 3000},
    "says it is at LBA 9": {"my_lba": 9},
    "is not between": {"entries_lba": 2},
}


@pytest.mark.parametrize("text", BACKUP_LIES)
def test_a_lie_in_the_backup_header_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match=text):
        read(Table(backup=BACKUP_LIES[text]).build())


@pytest.mark.parametrize(
    "wrong", [(10, 20), (4000, 4070), (200, 199), (0, 1 << 63)]
)
def test_a_partition_outside_the_usable_sectors_is_refused(
    wrong: tuple[int, int],
) -> None:
    with pytest.raises(CorruptImageError, match="usable LBAs 34 to 4062"):
        read(Table(partitions=[(64, 70), wrong]).build())


def test_partitions_that_share_one_sector_are_refused() -> None:
    with pytest.raises(OverlapError, match="partition 1 and partition 2"):
        read(Table(partitions=[(64, 128), (128, 200)]).build())
    read(Table(partitions=[(64, 127), (128, 200)]).build())


def test_more_partitions_than_linux_reads_are_refused() -> None:
    many = [(200 + n, 200 + n) for n in range(257)]
    table = Table(partitions=many, entry_count=512, sectors=8192)
    with pytest.raises(LimitExceededError, match="number of partitions"):
        read(table.build())
