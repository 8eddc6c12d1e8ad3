"""The layout of a whole disk: its label, its partitions and what they hold.

1. A GPT counts only behind a protective or hybrid MBR (UEFI 2.10 5.2.3).
2. An MBR counts only if it names a partition and is not the boot sector of a
   file system that fills the disk; if it could be both, the disk is refused.
3. No structure of the label, and no partition, shares a byte with another,
   except a container with the logical partitions in it.
4. What is read is never repaired, and what is ambiguous is refused.

A disk that vmsec has sealed is not this module's business: its header is one
foreign partition.

Example:
    >>> layout = read_layout(source)
    >>> [(p.number, p.status, p.note) for p in layout.partitions]

Units:
    Offsets and lengths are bytes from the start of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, FormatError, LimitExceededError
from vmsec.ondisk import gpt, mbr
from vmsec.ondisk.extent import (
    Extent,
    ExtentBuilder,
    MetadataClass,
    VolumeMap,
)
from vmsec.ondisk.interval import Claim, gaps, require_disjoint
from vmsec.ondisk.probe import Finding, Status, is_boot_sector, probe_volume
from vmsec.ondisk.source import WindowSource

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"
"""GRUB's BIOS boot partition: a boot loader without a file system."""

_SECTOR = 512


class Partition(NamedTuple):
    """One partition, or (number 0) a disk without a label.

    ``type_id`` is the GPT type GUID, ``0x83`` and the like, or empty;
    ``content`` is relative to the partition.
    """

    number: int
    offset: int
    length: int
    type_id: str
    content: VolumeMap | None
    status: Status
    note: str = ""

    @property
    def end(self) -> int:
        """First byte behind the partition."""
        return self.offset + self.length


class DiskLayout(NamedTuple):
    """What :func:`read_layout` found.

    ``label`` is ``"gpt"``, ``"msdos"`` or ``"none"``; ``extents`` are the
    label's own structures; ``sector_bytes`` is the logical sector that the
    label is written in.
    """

    label: str
    partitions: tuple[Partition, ...]
    extents: tuple[Extent, ...]
    notes: tuple[str, ...]
    sector_bytes: int
    size_bytes: int


class _Slot(NamedTuple):
    """A partition before it is looked into."""

    number: int
    offset: int
    length: int
    type_id: str
    is_container: bool = False


def read_layout(source: BlockSource) -> DiskLayout:
    """Read the label of a disk and map each of its partitions.

    Args:
        source: The guest-visible disk. Read only.

    Raises:
        CorruptImageError: The label or a file system contradicts itself; the
            partition is named. The caller must refuse the image.
        LimitExceededError: A number is beyond all reason.
        OverlapError: Two partitions, or one and the label, share bytes.
        UnsupportedFormatError: The label is one that nobody should seal.
    """
    sector = source.read_at(0, min(_SECTOR, source.size_bytes))
    if not mbr.is_label(sector):
        return _read_bare(source)
    if is_boot_sector(source):
        disk_sectors = source.size_bytes // source.sector_bytes
        if mbr.is_plausible(sector, disk_sectors):
            raise CorruptImageError(
                "LBA 0 is both a partition table and the boot sector of a "
                "file system; wipe the stale one with wipefs"
            )
        return _read_bare(source)
    if mbr.is_protective(mbr.parse_mbr(sector)):
        return _read_gpt(source, sector)
    return _read_msdos(source)


def volume_extents(layout: DiskLayout) -> tuple[Extent, ...]:
    """Return all metadata of a disk: its label's and each partition's.

    Returns:
        Extents relative to the disk, sorted and disjoint.
    """
    builder = ExtentBuilder(layout.size_bytes)
    for extent in layout.extents:
        builder.add(*extent)
    for partition in layout.partitions:
        if partition.content is not None:
            for offset, length, kind in partition.content.extents:
                builder.add(partition.offset + offset, length, kind)
    return builder.merged()


def free_ranges(layout: DiskLayout) -> tuple[tuple[int, int], ...]:
    """Return what no partition and no structure of the label covers.

    Returns:
        Offsets and lengths in order; what lies in an extended partition is
        covered. Free does not mean zero: boot loaders live there.
    """
    claims = [(e.offset, e.length) for e in layout.extents]
    claims += [(p.offset, p.length) for p in layout.partitions]
    return gaps(claims, layout.size_bytes)


def fallback_ranges(layout: DiskLayout) -> tuple[tuple[int, int], ...]:
    """Return where the partitions of unknown content lie.

    Returns:
        Offsets and lengths of whole partitions; how much of each is sealed
        is the planner's to say (DESIGN 3.1).
    """
    return tuple(
        (p.offset, p.length)
        for p in layout.partitions
        if p.status is Status.UNKNOWN
    )


def _read_bare(source: BlockSource) -> DiskLayout:
    """Read a disk without a label: one volume, number 0."""
    found = _look_into(source, _Slot(0, 0, source.size_bytes, ""))
    first = min(source.sector_bytes, source.size_bytes)
    # An encrypted disk is not touched at all, not even for the header.
    untouched = found.status is Status.ENCRYPTED or first == 0
    extents = () if untouched else (Extent(0, first, MetadataClass.LBA0),)
    return DiskLayout(
        "none",
        (found,),
        extents,
        (),
        source.sector_bytes,
        source.size_bytes,
    )


def _read_gpt(source: BlockSource, sector: bytes) -> DiskLayout:
    size = gpt.find_sector_bytes(source) or source.sector_bytes
    table = gpt.read_gpt(source, sector_bytes=size)
    slots = [
        _Slot(p.number, p.first_lba * size, p.sectors * size, str(p.type_guid))
        for p in table.partitions
    ]
    notes = table.notes + _check_hybrid(sector, table)
    extents = (Extent(0, size, MetadataClass.LBA0), *table.extents)
    return _assemble("gpt", source, slots, (extents, notes, size))


def _check_hybrid(sector: bytes, table: gpt.GPT) -> tuple[str, ...]:
    """Check that a hybrid MBR only repeats what the GPT says."""
    known = {(p.first_lba, p.sectors) for p in table.partitions}
    repeated = [
        entry
        for entry in mbr.parse_mbr(sector)
        if entry.is_used and entry.type_id != mbr.PROTECTIVE_TYPE
    ]
    for entry in repeated:
        if (entry.first_lba, entry.sectors) not in known:
            raise CorruptImageError(
                f"hybrid MBR: record {entry.slot} at LBA {entry.first_lba} "
                "is no partition of the GPT; repair it with 'sgdisk'"
            )
    return ("hybrid MBR",) if repeated else ()


def _read_msdos(source: BlockSource) -> DiskLayout:
    size = source.sector_bytes
    if gpt.find_sector_bytes(source) is not None:
        raise CorruptImageError(
            "both an msdos label and a GPT header; wipe the stale one with "
            "wipefs"
        )
    table = mbr.read_table(source, sector_bytes=size)
    slots = [
        _Slot(
            p.number,
            p.first_lba * size,
            p.sectors * size,
            f"{p.type_id:#04x}",
            p.is_container,
        )
        for p in table.partitions
    ]
    kind = MetadataClass.PARTITION_TABLE
    extents = (
        Extent(0, size, MetadataClass.LBA0),
        *(Extent(lba * size, size, kind) for lba in sorted(table.ebr_lbas)),
    )
    return _assemble("msdos", source, slots, (extents, (), size))


def _assemble(
    label: str,
    source: BlockSource,
    slots: list[_Slot],
    table: tuple[tuple[Extent, ...], tuple[str, ...], int],
) -> DiskLayout:
    """Check that nothing overlaps, then look into each partition."""
    extents, notes, sector_bytes = table
    _require_layout_disjoint(slots, extents)
    partitions = tuple(_look_into(source, slot) for slot in slots)
    return DiskLayout(
        label,
        partitions,
        tuple(sorted(extents)),
        notes,
        sector_bytes,
        source.size_bytes,
    )


def _require_layout_disjoint(
    slots: list[_Slot], extents: tuple[Extent, ...]
) -> None:
    claims = [
        Claim(e.offset, e.length, f"the {e.kind} at byte {e.offset}")
        for e in extents
    ]
    named = {
        slot: Claim(slot.offset, slot.length, f"partition {slot.number}")
        for slot in slots
    }
    require_disjoint(
        claims + [c for s, c in named.items() if not s.is_container]
    )
    if any(slot.is_container for slot in slots):
        require_disjoint(
            c for s, c in named.items() if s.number < mbr.FIRST_LOGICAL
        )


def _look_into(source: BlockSource, slot: _Slot) -> Partition:
    """Probe one partition; errors name it."""
    found = _find(source, slot)
    return Partition(
        slot.number,
        slot.offset,
        slot.length,
        slot.type_id,
        found.content,
        found.status,
        found.note,
    )


def _find(source: BlockSource, slot: _Slot) -> Finding:
    if slot.is_container:
        return Finding(Status.CONTAINER, None, "extended partition")
    if slot.type_id == BIOS_BOOT_TYPE:
        return Finding(Status.UNKNOWN, None, "BIOS boot partition")
    window = WindowSource(source, slot.offset, slot.length)
    try:
        return probe_volume(window)
    except (CorruptImageError, LimitExceededError) as err:
        raise _named(err, slot) from err


def _named(err: FormatError, slot: _Slot) -> FormatError:
    """Return the same error with the partition in front."""
    owner = f"partition {slot.number}" if slot.number else "whole disk"
    return type(err)(f"{owner} at byte {slot.offset}: {err}")
