"""exFAT: both boot regions, the table, bitmap, up-case table, directories.

Names are not decoded: a directory is metadata as a whole. Freed clusters that
once held a directory are free space and not part of the map; nor are what
vendors allocate to a file (7.9), which is content, and TexFAT, which only
Windows CE knows.

Units:
    Clusters are numbered from 2; everything else is bytes from the start of
    the volume.

Source:
    Microsoft exFAT file system specification, revision 1.00; numbers in the
    code are its sections.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.exfatwalk import ClusterHeap, Walk
from vmsec.ondisk.extent import ExtentBuilder, MetadataClass, VolumeMap
from vmsec.ondisk.fattable import FATTable

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

_BOOT_SECTOR = struct.Struct("<3s8s53xQQIIIIIIHHBBBBB7x390s2s")
_NAME = b"EXFAT   "
_REGION_SECTORS = 12
"""3: a boot sector, eight extended ones, OEM parameters, a reserved sector
and the checksum."""

_VOLATILE = frozenset({106, 107, 112})
"""3.4: VolumeFlags and PercentInUse are not part of the checksum."""

_ACTIVE_FAT = 1
_VOLUME_DIRTY = 2


class ExFATGeometry(NamedTuple):
    """Where the parts of a volume lie, checked against one another."""

    sector_bytes: int
    cluster_bytes: int
    fat_offset: int
    fat_bytes: int
    heap_offset: int
    clusters: int
    root_cluster: int
    is_dirty: bool


def is_exfat(source: BlockSource) -> bool:
    """Whether the volume begins with the boot sector of an exFAT.

    3.1.2, 3.1.3: the name, and zeros where a FAT has its parameters.
    """
    if source.size_bytes < 512:
        return False
    sector = source.read_at(0, 512)
    return sector[3:11] == _NAME and not any(sector[11:64])


def read_geometry(source: BlockSource) -> ExFATGeometry:
    """Read the boot sector of a volume for which :func:`is_exfat` holds.

    Raises:
        CorruptImageError: Its parts do not fit into one another or into the
            volume, or its boot region has a wrong checksum.
        UnsupportedFormatError: Its revision is not 1, or it is TexFAT.
    """
    fields = _BOOT_SECTOR.unpack(source.read_at(0, 512))
    _, _, _, sectors, fat_at, fat_length, heap_at, clusters, root = fields[:9]
    revision, flags, sector_shift, cluster_shift, fats = fields[10:15]
    # 3.1.12: no other major revision shall be mounted.
    if revision >> 8 != 1:
        raise UnsupportedFormatError(f"revision {revision >> 8}")
    # 3.1.13.1, 3.1.16
    if fats != 1 or flags & _ACTIVE_FAT:
        raise UnsupportedFormatError(f"{fats} tables (TexFAT)")
    _require_shifts(sector_shift, cluster_shift, fields[-1])
    size = 1 << sector_shift
    geometry = ExFATGeometry(
        size,
        size << cluster_shift,
        fat_at * size,
        fat_length * size,
        heap_at * size,
        clusters,
        root,
        bool(flags & _VOLUME_DIRTY),
    )
    _require_parts(geometry, sectors * size, source.size_bytes)
    if not _has_checksum(source, 0, size):
        raise CorruptImageError(
            "exFAT: the checksum of the boot region is wrong; repair it with "
            "fsck.exfat or chkdsk"
        )
    return geometry


def _require_shifts(sector: int, cluster: int, signature: bytes) -> None:
    # 3.1.14, 3.1.15, 3.1.20
    valid = 9 <= sector <= 12 and cluster <= 25 - sector
    if not valid or signature != b"\x55\xaa":
        raise CorruptImageError(
            f"exFAT: sectors of 2^{sector} bytes, clusters of 2^{cluster} "
            f"sectors and a boot signature of {signature.hex()} are no boot "
            "sector"
        )


def _require_parts(geometry: ExFATGeometry, volume: int, size: int) -> None:
    """Check that the parts follow one another inside the volume."""
    region_end = 2 * _REGION_SECTORS * geometry.sector_bytes
    fat_end = geometry.fat_offset + geometry.fat_bytes
    heap_end = (
        geometry.heap_offset + geometry.clusters * geometry.cluster_bytes
    )
    # 3.1.5 to 3.1.9
    if not (
        region_end <= geometry.fat_offset
        and fat_end <= geometry.heap_offset
        and heap_end <= volume <= size
        and geometry.clusters >= 1
        and geometry.fat_bytes >= (geometry.clusters + 2) * 4
    ):
        raise CorruptImageError(
            f"exFAT: a table of {geometry.fat_bytes} bytes at "
            f"{geometry.fat_offset} and {geometry.clusters} clusters at "
            f"{geometry.heap_offset} do not fit into a volume of {volume} "
            f"bytes on {size}; repair it with fsck.exfat or chkdsk"
        )


def _has_checksum(source: BlockSource, offset: int, sector: int) -> bool:
    """Whether a boot region ends in its own checksum (3.4, figure 1)."""
    length = (_REGION_SECTORS - 1) * sector
    total = 0
    for at, byte in enumerate(source.read_at(offset, length)):
        if at not in _VOLATILE:
            total = ((total & 1) << 31 | total >> 1) + byte & 0xFFFFFFFF
    stored = source.read_at(offset + length, sector)
    return stored == total.to_bytes(4, "little") * (sector // 4)


def map_exfat(source: BlockSource) -> VolumeMap:
    """Find every byte of metadata of an exFAT volume.

    Returns:
        Both boot regions, the table, the allocation bitmap, the up-case
        table and the clusters of every directory.

    Raises:
        CorruptImageError: The volume contradicts itself; ``fsck.exfat``.
        UnsupportedFormatError: It has what revision 1.00 does not know.
        LimitExceededError: Its directories are beyond all reason.
    """
    geometry = read_geometry(source)
    builder = ExtentBuilder(source.size_bytes)
    regions = 2 * _REGION_SECTORS * geometry.sector_bytes
    builder.add(0, regions, MetadataClass.BOOT_SECTOR)
    builder.add(
        geometry.fat_offset, geometry.fat_bytes, MetadataClass.FAT_TABLE
    )
    _add_allocations(source, geometry, builder)
    return VolumeMap("exfat", builder.merged(), _notes(source, geometry))


def _add_allocations(
    source: BlockSource, geometry: ExFATGeometry, builder: ExtentBuilder
) -> None:
    """Add what lies in the cluster heap; nothing may be used twice."""
    table = FATTable(
        source, geometry.fat_offset, geometry.clusters, bits=32, is_exfat=True
    )
    heap = ClusterHeap(
        source,
        table,
        geometry.heap_offset,
        geometry.cluster_bytes,
        geometry.clusters,
    )
    end = 0
    for run, kind in sorted(Walk(heap).allocations(geometry.root_cluster)):
        if run.offset < end:
            raise CorruptImageError(
                f"exFAT: the cluster at byte {run.offset} is used twice; "
                "repair it with fsck.exfat"
            )
        end = run.offset + run.length
        builder.add(run.offset, run.length, kind)


def _notes(source: BlockSource, geometry: ExFATGeometry) -> tuple[str, ...]:
    notes = []
    if geometry.is_dirty:
        notes.append("the guest did not unmount the file system")
    backup = _REGION_SECTORS * geometry.sector_bytes
    # 3.1: only a repair reads the backup, so a stale one stops nobody.
    if not _has_checksum(source, backup, geometry.sector_bytes):
        notes.append("the backup of the boot region has a wrong checksum")
    return tuple(notes)
