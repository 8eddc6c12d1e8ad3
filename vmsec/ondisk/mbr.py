"""Master boot records (msdos labels): primaries, extended chains, hybrids.

There is no standard. UEFI 2.10 section 5.2 gives the layout of LBA 0; where
readers differ in practice (Linux ``block/partitions/msdos.c``, libparted,
sfdisk) this one refuses: what two readers see differently is never sealed.

Units:
    LBAs and sector counts are in logical sectors of the disk. Nothing in an
    MBR says how long these are: the caller does.

Source:
    UEFI 2.10, 5.2.1 (legacy MBR) and 5.2.3 (protective MBR).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

SIGNATURE = b"\x55\xaa"
"""At byte 510 of the sector (UEFI 2.10 table 5-1)."""

EXTENDED_TYPES = frozenset({0x05, 0x0F, 0x85})
"""CHS, LBA and Linux extended partitions."""

PROTECTIVE_TYPE = 0xEE
"""GPT protective (UEFI 2.10 table 5-4)."""

FIRST_LOGICAL = 5
"""Number of the first logical partition, everywhere."""

_RECORD = struct.Struct("<B3xB3xII")
_RECORDS_AT = 446
_BOOT_INDICATORS = frozenset({0x00, 0x80})


class MBREntry(NamedTuple):
    """One of the four records; ``slot`` counts from 1."""

    slot: int
    boot_indicator: int
    type_id: int
    first_lba: int
    sectors: int

    @property
    def is_used(self) -> bool:
        """Whether the record names a partition."""
        return self.type_id != 0 and self.sectors != 0

    @property
    def is_extended(self) -> bool:
        """Whether the record leads to a chain of logical partitions."""
        return self.is_used and self.type_id in EXTENDED_TYPES


class MBRPartition(NamedTuple):
    """A partition as the operating system numbers it.

    ``is_container`` marks the extended partition, which holds the others.
    """

    number: int
    type_id: int
    first_lba: int
    sectors: int
    is_container: bool = False


class MBRTable(NamedTuple):
    """A whole msdos label; ``ebr_lbas`` are the sectors of its chain."""

    partitions: tuple[MBRPartition, ...]
    ebr_lbas: tuple[int, ...]


def has_signature(sector: bytes) -> bool:
    """Whether the sector ends in 55 AA at byte 510."""
    return sector[510:512] == SIGNATURE


def parse_mbr(sector: bytes) -> tuple[MBREntry, ...]:
    """Read the four records of an MBR or EBR.

    Args:
        sector: At least the first 512 bytes of the sector.

    Returns:
        Four entries in slot order, used or not.

    Raises:
        CorruptImageError: The signature is missing, or a record has a length
            but no type (Linux shows such a partition, others do not).
    """
    if not has_signature(sector):
        raise CorruptImageError("no 55AA signature at byte 510")
    entries = tuple(
        MBREntry(
            slot + 1, *_RECORD.unpack_from(sector, _RECORDS_AT + 16 * slot)
        )
        for slot in range(4)
    )
    for entry in entries:
        if entry.type_id == 0 and entry.sectors != 0:
            raise CorruptImageError(
                f"record {entry.slot} has {entry.sectors} sectors but type 0"
            )
    return entries


def is_label(sector: bytes) -> bool:
    """Whether LBA 0 holds a partition table rather than only boot code.

    As the kernel does, every boot indicator must be 00 or 80; and a table
    without any partition is none (UEFI 2.10 5.2.1: unused records are zero).
    """
    if not has_signature(sector):
        return False
    fields = [
        _RECORD.unpack_from(sector, _RECORDS_AT + 16 * slot)
        for slot in range(4)
    ]
    return all(f[0] in _BOOT_INDICATORS for f in fields) and any(
        f[3] for f in fields
    )


def is_plausible(sector: bytes, disk_sectors: int) -> bool:
    """Whether every record of a label lies inside the disk.

    Tells a table from the boot code of a file system in the same place.
    """
    fields = (
        _RECORD.unpack_from(sector, _RECORDS_AT + 16 * slot)
        for slot in range(4)
    )
    return is_label(sector) and all(
        not count or (first and first + count <= disk_sectors)
        for _, _, first, count in fields
    )


def is_protective(entries: tuple[MBREntry, ...]) -> bool:
    """Whether a record of type EE announces a GPT.

    Raises:
        CorruptImageError: One does, but not at LBA 1: firmware and Linux
            then see no GPT, libparted does (UEFI 2.10 table 5-4).
    """
    announced = [e for e in entries if e.type_id == PROTECTIVE_TYPE]
    if announced and not any(e.first_lba == 1 for e in announced):
        raise CorruptImageError(
            "the protective MBR does not begin at LBA 1; "
            "repair it with 'sgdisk'"
        )
    return bool(announced)


def read_table(source: BlockSource, *, sector_bytes: int) -> MBRTable:
    """Read an msdos label with its logical partitions.

    Args:
        source: The whole disk.
        sector_bytes: Its logical sector, 512 or 4096.

    Raises:
        CorruptImageError: A record points outside the disk or its extended
            partition, or the chain is broken or closed to a ring.
        LimitExceededError: More than ``MAX_EBR_CHAIN`` logical partitions.
        UnsupportedFormatError: Two extended partitions, or a partition that
            begins in LBA 0.
    """
    disk_sectors = source.size_bytes // sector_bytes
    used = [e for e in parse_mbr(source.read_at(0, 512)) if e.is_used]
    for entry in used:
        _require_primary(entry, disk_sectors)
    extended = [e for e in used if e.is_extended]
    if len(extended) > 1:
        raise UnsupportedFormatError(
            f"partitions {extended[0].slot} and {extended[1].slot} are both "
            "extended; only one can be"
        )
    partitions = [
        MBRPartition(e.slot, e.type_id, e.first_lba, e.sectors, e.is_extended)
        for e in used
    ]
    ebr_lbas: list[int] = []
    for entry in extended:
        ebr_lbas += _walk_chain(source, entry, sector_bytes, partitions)
    return MBRTable(tuple(partitions), tuple(ebr_lbas))


def _require_primary(entry: MBREntry, disk_sectors: int) -> None:
    if entry.boot_indicator not in _BOOT_INDICATORS:
        raise CorruptImageError(
            f"partition {entry.slot} has boot indicator "
            f"{entry.boot_indicator:02x}; only 00 and 80 exist"
        )
    if entry.first_lba == 0:
        raise UnsupportedFormatError(
            f"partition {entry.slot} begins in LBA 0, inside the MBR"
        )
    if entry.first_lba + entry.sectors > disk_sectors:
        raise CorruptImageError(
            f"partition {entry.slot} ends at sector "
            f"{entry.first_lba + entry.sectors} of a disk of {disk_sectors}"
        )


def _walk_chain(
    source: BlockSource,
    extended: MBREntry,
    sector_bytes: int,
    partitions: list[MBRPartition],
) -> list[int]:
    """Append the logical partitions; return the EBRs' LBAs in order."""
    visited: list[int] = []
    number = FIRST_LOGICAL
    lba: int | None = extended.first_lba
    while lba is not None:
        _require_next(lba, visited, extended)
        visited.append(lba)
        entries = _read_ebr(source, lba, sector_bytes)
        data, link = _split_ebr(entries, lba)
        if data is not None:
            partitions.append(_logical(number, data, lba, extended))
            number += 1
        lba = None if link is None else extended.first_lba + link.first_lba
    return visited


def _require_next(lba: int, visited: list[int], extended: MBREntry) -> None:
    """Check a link before it is followed."""
    if len(visited) >= limits.MAX_EBR_CHAIN:
        raise LimitExceededError(
            f"the extended partition holds more than {limits.MAX_EBR_CHAIN} "
            "boot records"
        )
    if not 0 <= lba - extended.first_lba < extended.sectors:
        raise CorruptImageError(
            f"the chain of logical partitions leaves extended partition "
            f"{extended.slot} for LBA {lba}"
        )
    if lba in visited:
        raise CorruptImageError(
            f"the chain of logical partitions returns to LBA {lba}"
        )


def _read_ebr(
    source: BlockSource, lba: int, sector_bytes: int
) -> tuple[MBREntry, ...]:
    try:
        return parse_mbr(source.read_at(lba * sector_bytes, 512))
    except CorruptImageError as err:
        raise CorruptImageError(
            f"extended boot record at LBA {lba}: {err}"
        ) from err


def _split_ebr(
    entries: tuple[MBREntry, ...], lba: int
) -> tuple[MBREntry | None, MBREntry | None]:
    """Tell the partition of an EBR from the link to the next one."""
    data = [e for e in entries if e.is_used and not e.is_extended]
    links = [e for e in entries if e.is_extended]
    beyond = any(e.is_used for e in entries[2:])
    if len(data) > 1 or len(links) > 1 or beyond:
        raise CorruptImageError(
            f"extended boot record at LBA {lba}: more than one partition "
            "and one link"
        )
    return (data[0] if data else None, links[0] if links else None)


def _logical(
    number: int, data: MBREntry, ebr: int, extended: MBREntry
) -> MBRPartition:
    """Place a logical partition: its start counts from its own EBR."""
    first = ebr + data.first_lba
    end = extended.first_lba + extended.sectors
    if data.first_lba == 0 or first + data.sectors > end:
        raise CorruptImageError(
            f"logical partition {number} at LBA {first} of {data.sectors} "
            f"sectors leaves extended partition {extended.slot}"
        )
    return MBRPartition(number, data.type_id, first, data.sectors)
