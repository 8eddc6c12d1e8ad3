"""GUID partition tables.

1. Both copies must be whole and say the same, or the disk is refused: firmware
   and systems differ in which copy they believe.
2. Two exceptions, both noted: the backup lies where the disk once ended (the
   disk was grown, usual in clouds); there is no backup at all, only zeros.
3. Nothing is repaired here; the error names ``sgdisk``.

Units:
    LBAs are logical sectors; partitions end in their last LBA, inclusive.

Source:
    UEFI 2.10, 5.3.2 (header, table 5-5) and 5.3.3 (entries, table 5-6).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits
from vmsec.ondisk.extent import Extent, MetadataClass
from vmsec.ondisk.interval import Claim, require_disjoint
from vmsec.units import align_up

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

SIGNATURE = b"EFI PART"
PRIMARY_LBA = 1

NOTE_NO_BACKUP = "the disk has no backup GPT; write one with 'sgdisk -e'"
"""Libparted warns of the same; see :mod:`vmsec.sealing.labelcheck`."""

_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72x")
_MIN_ENTRY_BYTES = 128
_MAX_ENTRY_BYTES = 4096
_REPAIR = "check it with 'sgdisk --verify' and repair it with 'sgdisk'"


class GPTHeader(NamedTuple):
    """The fields of a header whose checksum is right."""

    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: UUID
    entries_lba: int
    entry_count: int
    entry_bytes: int
    entries_crc: int

    @property
    def table_bytes(self) -> int:
        """Length of the entry array."""
        return self.entry_count * self.entry_bytes


class GPTPartition(NamedTuple):
    """A used entry; ``number`` is its place in the array, from 1."""

    number: int
    type_guid: UUID
    unique_guid: UUID
    first_lba: int
    last_lba: int

    @property
    def sectors(self) -> int:
        """Length in logical sectors."""
        return self.last_lba - self.first_lba + 1


class GPT(NamedTuple):
    """A verified table; ``extents`` are its headers and arrays."""

    sector_bytes: int
    disk_guid: UUID
    partitions: tuple[GPTPartition, ...]
    extents: tuple[Extent, ...]
    notes: tuple[str, ...]


def find_sector_bytes(source: BlockSource) -> int | None:
    """Find the sector size with which LBA 1 holds a GPT header.

    An image file does not know its logical sector; the place of the header
    tells it.

    Returns:
        512, 4096, or ``None`` if there is no signature at either place.

    Raises:
        CorruptImageError: There is one at both.
    """
    found = [
        size
        for size in (512, 4096)
        if source.size_bytes >= 2 * size
        and source.read_at(size, 8) == SIGNATURE
    ]
    if len(found) > 1:
        raise CorruptImageError(
            "GPT headers for 512-byte and for 4096-byte sectors; wipe the "
            "stale one"
        )
    return found[0] if found else None


def read_gpt(source: BlockSource, *, sector_bytes: int) -> GPT:
    """Read and verify both copies of the table.

    Args:
        source: The whole disk.
        sector_bytes: Its logical sector, 512 or 4096.

    Raises:
        CorruptImageError: A copy is damaged, or the two differ.
        LimitExceededError: The table or the number of partitions is larger
            than the field has them.
        OverlapError: Two partitions share a sector.
        UnsupportedFormatError: A revision or entry size this reader does not
            know.
    """
    reader = _Reader(source, sector_bytes)
    primary, table = reader.read_primary()
    extents = [*reader.extents(primary)]
    notes = [*reader.read_backup(primary, extents)]
    return GPT(
        sector_bytes,
        primary.disk_guid,
        _parse_entries(primary, table, sector_bytes),
        tuple(extents),
        tuple(notes),
    )


class _Reader:
    """Reads header and array of one copy at a time."""

    def __init__(self, source: BlockSource, sector_bytes: int) -> None:
        self._source, self._sector = source, sector_bytes
        self._last_lba = source.size_bytes // sector_bytes - 1

    def read_primary(self) -> tuple[GPTHeader, bytes]:
        """Return the primary header and its array, both verified."""
        try:
            header, table = self._read_copy(PRIMARY_LBA)
        except CorruptImageError as err:
            raise CorruptImageError(
                f"primary GPT: {err}; {self._state_of_backup()}{_REPAIR}"
            ) from err
        self._require_primary_placement(header)
        return header, table

    def read_backup(
        self, primary: GPTHeader, extents: list[Extent]
    ) -> list[str]:
        """Verify the backup, add its extents, return notes."""
        lba = primary.alternate_lba
        notes: list[str] = []
        if lba < self._last_lba:
            notes.append(self._note_grown(lba))
        if self._is_absent(primary):
            return [*notes, NOTE_NO_BACKUP]
        try:
            backup, _ = self._read_copy(lba)
        except CorruptImageError as err:
            raise CorruptImageError(f"backup GPT: {err}; {_REPAIR}") from err
        _require_same(primary, backup)
        extents += self.extents(backup)
        return notes

    def extents(self, header: GPTHeader) -> list[Extent]:
        """Return where the header and its array lie, in whole sectors."""
        length = align_up(header.table_bytes, self._sector)
        kind = MetadataClass.PARTITION_TABLE
        return [
            Extent(header.my_lba * self._sector, self._sector, kind),
            Extent(header.entries_lba * self._sector, length, kind),
        ]

    def _read_copy(self, lba: int) -> tuple[GPTHeader, bytes]:
        block = self._source.read_at(lba * self._sector, self._sector)
        header = _parse_header(block, lba)
        table = self._source.read_at(
            header.entries_lba * self._sector, header.table_bytes
        )
        # 5.3.2: the CRC of the entry array.
        if zlib.crc32(table) != header.entries_crc:
            raise CorruptImageError("wrong CRC of the entry array")
        return header, table

    def _array_end(self, header: GPTHeader) -> int:
        """First LBA behind the entry array."""
        length = align_up(header.table_bytes, self._sector)
        return header.entries_lba + length // self._sector

    def _require_primary_placement(self, header: GPTHeader) -> None:
        """Check table 5-5: header, array, partitions, backup, in order."""
        ordered = (
            header.entries_lba > PRIMARY_LBA
            and self._array_end(header) <= header.first_usable_lba
            and header.first_usable_lba <= header.last_usable_lba
            and header.last_usable_lba < header.alternate_lba
        )
        if not ordered:
            raise CorruptImageError(
                "primary GPT: array, usable sectors and backup are not in "
                f"order; {_REPAIR}"
            )
        if header.alternate_lba > self._last_lba:
            raise CorruptImageError(
                f"primary GPT: the backup should be at LBA "
                f"{header.alternate_lba}, but the disk ends at LBA "
                f"{self._last_lba}; the image was cut short"
            )

    def _note_grown(self, lba: int) -> str:
        """Say that the disk was grown, if only one backup claims to be."""
        end = self._source.read_at(self._last_lba * self._sector, 8)
        if end == SIGNATURE:
            raise CorruptImageError(
                f"two backup GPTs: at LBA {lba}, which the primary names, "
                f"and at LBA {self._last_lba}, the end; {_REPAIR}"
            )
        sectors = self._last_lba - lba
        return (
            f"the backup GPT lies {sectors * self._sector} bytes before the "
            "end of the disk (the disk was grown)"
        )

    def _is_absent(self, primary: GPTHeader) -> bool:
        """Whether nothing but zeros is where the backup should be."""
        # 5.3.1: the backup array lies directly before its header.
        length = align_up(primary.table_bytes, self._sector)
        start = max(
            primary.alternate_lba * self._sector - length,
            (primary.last_usable_lba + 1) * self._sector,
        )
        end = (primary.alternate_lba + 1) * self._sector
        return not any(self._source.read_at(start, end - start))

    def _state_of_backup(self) -> str:
        try:
            self._read_copy(self._last_lba)
        except (CorruptImageError, LimitExceededError, UnsupportedFormatError):
            return "there is no whole backup at the end of the disk; "
        return "the backup at the end of the disk is whole; "


def _parse_header(block: bytes, lba: int) -> GPTHeader:
    """Check one header as UEFI 2.10 5.3.2 demands."""
    fields = _HEADER.unpack_from(block)
    signature, revision, header_bytes, crc = fields[:4]
    if signature != SIGNATURE:
        raise CorruptImageError(f"no 'EFI PART' at LBA {lba}")
    # Table 5-5: HeaderSize is 92 or more and at most the logical block.
    if not _HEADER.size <= header_bytes <= len(block):
        raise CorruptImageError(f"the header claims {header_bytes} bytes")
    # 5.3.2: the CRC, counted with its own field zero.
    cleared = block[:16] + bytes(4) + block[20:header_bytes]
    if zlib.crc32(cleared) != crc:
        raise CorruptImageError("wrong CRC of the header")
    if revision != _REVISION:
        raise UnsupportedFormatError(f"GPT revision {revision:#010x}")
    header = GPTHeader._make(
        (*fields[5:9], UUID(bytes_le=fields[9]), *fields[10:])
    )
    # 5.3.2: MyLBA names the block that holds it.
    if header.my_lba != lba:
        raise CorruptImageError(
            f"the header at LBA {lba} says it is at LBA {header.my_lba}"
        )
    _require_entry_shape(header)
    return header


def _require_entry_shape(header: GPTHeader) -> None:
    """Check table 5-5: an entry is 128 times a power of two bytes."""
    size = header.entry_bytes
    if size < _MIN_ENTRY_BYTES or size > _MAX_ENTRY_BYTES or size & (size - 1):
        raise UnsupportedFormatError(f"GPT entries of {size} bytes")
    if header.entry_count == 0:
        raise CorruptImageError("the header has room for no entry")
    limits.require_limit(
        header.table_bytes,
        limits.MAX_GPT_TABLE_BYTES,
        "the length of the GPT entry array",
    )


def _require_same(primary: GPTHeader, backup: GPTHeader) -> None:
    """Check that the copies differ only where table 5-5 makes them."""
    expected = primary._replace(
        my_lba=primary.alternate_lba,
        alternate_lba=PRIMARY_LBA,
        entries_lba=backup.entries_lba,
    )
    if backup != expected:
        raise CorruptImageError(
            f"primary and backup GPT describe different tables; {_REPAIR}"
        )
    if not primary.last_usable_lba < backup.entries_lba < backup.my_lba:
        raise CorruptImageError(
            f"backup GPT: the entry array at LBA {backup.entries_lba} is not "
            f"between the partitions and the header; {_REPAIR}"
        )


def _parse_entries(
    header: GPTHeader, table: bytes, sector_bytes: int
) -> tuple[GPTPartition, ...]:
    """Read the used entries (UEFI 2.10 5.3.3)."""
    found: list[GPTPartition] = []
    for index in range(header.entry_count):
        kind, unique, first, last, _ = _ENTRY.unpack_from(
            table, index * header.entry_bytes
        )
        # Table 5-6: a type of zero marks an unused entry.
        if not any(kind):
            continue
        partition = GPTPartition(
            index + 1,
            UUID(bytes_le=kind),
            UUID(bytes_le=unique),
            first,
            last,
        )
        _require_usable(header, partition)
        found.append(partition)
    limits.require_limit(
        len(found), limits.MAX_PARTITIONS, "the number of partitions"
    )
    require_disjoint(
        Claim(
            p.first_lba * sector_bytes,
            p.sectors * sector_bytes,
            f"partition {p.number}",
        )
        for p in found
    )
    return tuple(found)


def _require_usable(header: GPTHeader, partition: GPTPartition) -> None:
    """Check table 5-6: an entry lies between the usable LBAs."""
    if not (
        header.first_usable_lba
        <= partition.first_lba
        <= partition.last_lba
        <= header.last_usable_lba
    ):
        raise CorruptImageError(
            f"partition {partition.number} from LBA {partition.first_lba} to "
            f"{partition.last_lba} is not inside the usable LBAs "
            f"{header.first_usable_lba} to {header.last_usable_lba}"
        )
