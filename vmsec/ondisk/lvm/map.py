"""The metadata map of an LVM2 physical volume and of what lies on it.

Its own: the label and all metadata areas, with the old texts in them.

A logical volume that the guest sees and that is linear or striped and wholly
here is looked into like a partition: a file system is mapped, encryption is
left alone, of anything else the head and the tail are in the map.

Of what cannot be read in one piece from here (parts on other physical
volumes; the volumes behind mirrors, RAID, thin pools, caches and snapshots)
the head and the tail of each run are in the map, and the volume that a thin
or cache pool keeps its mapping in as a whole: without it no block of the pool
is found. Names inside may stay readable; a note says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    OverlapError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits, magic
from vmsec.ondisk.extent import (
    Extent,
    ExtentBuilder,
    MetadataClass,
    VolumeMap,
)
from vmsec.ondisk.finding import Status
from vmsec.ondisk.lvm.label import (
    LABEL_SECTORS,
    SECTOR_BYTES,
    PhysicalVolume,
    read_group,
    read_label,
)
from vmsec.ondisk.lvm.volume import GroupReader, LogicalVolume, MappedSource
from vmsec.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.ondisk.finding import Finding
    from vmsec.ondisk.source import BlockSource

    LookInto: TypeAlias = Callable[[BlockSource], Finding]

FALLBACK_BYTES = 4 * MIB
"""Sealed at the head and at the tail of what cannot be looked into."""

_LABEL_BYTES = LABEL_SECTORS * SECTOR_BYTES


def map_lvm(source: BlockSource, look_into: LookInto) -> VolumeMap:
    """Find all metadata of a physical volume.

    Args:
        source: The physical volume, from its first byte.
        look_into: Says what a logical volume holds.

    Returns:
        The map; its ``filesystem`` lists what the logical volumes hold, for
        instance ``LVM2(ext4,swap)``.

    Raises:
        CorruptImageError: A structure is wrong, or a file system on a
            logical volume is, which is named.
        OverlapError: Two volumes, or one and the metadata, share bytes.
        UnsupportedFormatError: The group is described on another disk.
        LimitExceededError: A number passes a limit.
    """
    pv = read_label(source)
    text = read_group(source, pv)
    if text is None and pv.is_used:
        raise UnsupportedFormatError(
            "the volume group is described on another disk"
        )
    mapper = _Mapper(source, look_into)
    mapper.add_own(pv)
    if text is None:
        return mapper.result(("belongs to no volume group",))
    volumes = list(GroupReader(text.group, pv.identity).volumes())
    _require_disjoint(pv, volumes)
    pool_metadata = {name for v in volumes for name in v.metadata_of}
    for volume in volumes:
        mapper.add_volume(volume, is_pool_map=volume.name in pool_metadata)
    return mapper.result(text.notes)


def _require_disjoint(
    pv: PhysicalVolume, volumes: list[LogicalVolume]
) -> None:
    """Check that no two runs share a byte; it bounds the work as well."""
    claims = [(0, _LABEL_BYTES, "the label")]
    claims += [(*area, "a metadata area") for area in pv.areas]
    claims += [(*leg, v.name) for v in volumes for leg in v.legs]
    end, owner = 0, ""
    for offset, length, name in sorted(claims):
        if offset < end:
            raise OverlapError(
                f"LVM2: {owner} and {name} overlap at byte {offset}; restore "
                "the metadata with vgcfgrestore"
            )
        end, owner = offset + length, name


class _Mapper:
    """Collects the extents and notes of one physical volume."""

    def __init__(self, source: BlockSource, look_into: LookInto) -> None:
        self._source, self._look_into = source, look_into
        self._builder = ExtentBuilder(source.size_bytes)
        self._names: dict[str, None] = {}
        self._notes: list[str] = []
        self._pieces = 0

    def result(self, notes: tuple[str, ...]) -> VolumeMap:
        """Return the map."""
        inner = f"({','.join(self._names)})" if self._names else ""
        return VolumeMap(
            f"LVM2{inner}",
            self._builder.merged(),
            (*notes, *self._notes),
        )

    def add_own(self, pv: PhysicalVolume) -> None:
        """Add the label and the metadata areas."""
        kind = MetadataClass.LVM_METADATA
        self._builder.add(0, _LABEL_BYTES, kind)
        for area in pv.areas:
            self._builder.add(*area, kind)

    def add_volume(self, volume: LogicalVolume, *, is_pool_map: bool) -> None:
        """Add what is to be sealed of a logical volume."""
        if is_pool_map:
            for leg in volume.legs:
                self._builder.add(*leg, MetadataClass.LVM_METADATA)
        elif volume.is_whole and volume.is_visible:
            self._add_whole(volume)
        else:
            self._add_parts(volume)

    def _add_whole(self, volume: LogicalVolume) -> None:
        mapped = MappedSource(self._source, volume.segments)
        try:
            found = self._look_into(mapped)
        except (CorruptImageError, LimitExceededError) as err:
            raise type(err)(f"LVM2 volume {volume.name}: {err}") from err
        if found.content is not None:
            self._names[found.content.filesystem] = None
            self._translate(mapped, found.content.extents)
        elif found.status is Status.UNKNOWN:
            ends = _ends(0, mapped.size_bytes)
            self._translate(mapped, ends)
        if found.note:
            self._notes.append(f"{volume.name}: {found.note}")

    def _translate(
        self, mapped: MappedSource, extents: tuple[Extent, ...]
    ) -> None:
        """Add extents of a logical volume as runs of the physical one."""
        for extent in extents:
            for offset, length in mapped.pieces(extent.offset, extent.length):
                self._pieces += 1
                limits.require_limit(
                    self._pieces,
                    limits.MAX_LVM_PIECES,
                    "LVM2: the number of runs",
                )
                self._builder.add(offset, length, extent.kind)

    def _add_parts(self, volume: LogicalVolume) -> None:
        """Add the ends of each run of what cannot be looked into."""
        if self._is_encrypted(volume):
            self._notes.append(f"{volume.name}: encrypted, left alone")
            return
        for leg in volume.legs:
            for extent in _ends(*leg):
                self._builder.add(*extent)
        kinds = "+".join(volume.kinds) or "empty"
        if volume.legs:
            self._notes.append(
                f"{volume.name} ({kinds}) cannot be looked into; only head "
                "and tail of its runs are sealed"
            )
        elif volume.is_visible:
            self._notes.append(
                f"{volume.name} ({kinds}) has no run of its own here"
            )

    def _is_encrypted(self, volume: LogicalVolume) -> bool:
        """Whether the part that begins the volume bears an encryption."""
        first = next((s for s in volume.segments if s.start == 0), None)
        if first is None:
            return False
        head = MappedSource(self._source, (first,))
        return magic.match(head, magic.ENCRYPTED) is not None


def _ends(offset: int, length: int) -> tuple[Extent, ...]:
    """Return the head and the tail of a run; they never overlap."""
    head = min(FALLBACK_BYTES, length)
    tail = min(FALLBACK_BYTES, length - head)
    kind = MetadataClass.FALLBACK
    return (
        Extent(offset, head, kind),
        Extent(offset + length - tail, tail, kind),
    )
