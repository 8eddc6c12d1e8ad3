"""FAT12, FAT16 and FAT32: boot sectors, tables and directories.

Names are not decoded: a directory is metadata as a whole, and only the short
entries of subdirectories are read to find more. Freed clusters that once
held a directory are free space and not part of the map.

Units:
    Clusters are numbered from 2; everything else is bytes from the start of
    the volume.

Source:
    Microsoft FAT specification (fatgen103, "FAT32 File System
    Specification" 1.03); where it is silent, Linux ``fs/fat``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError
from vmsec.ondisk import limits
from vmsec.ondisk.extent import ExtentBuilder, MetadataClass, VolumeMap
from vmsec.ondisk.fattable import FATTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.source import BlockSource

_BPB = struct.Struct("<3s8sHBHBHHBHHHII")
_BPB32 = struct.Struct("<IHHIHH")
_BPB32_AT = 36
_ENTRY_BYTES = 32
_NO_SECTOR = frozenset({0x0000, 0xFFFF})
"""FSInfo and backup boot sector: values that mean there is none."""

_FOREIGN_OEM = frozenset({b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"})
_MEDIA = frozenset({0xF0, *range(0xF8, 0x100)})
_ATTRIBUTE_DIRECTORY = 0x10
_ATTRIBUTE_VOLUME = 0x08
"""Set in volume labels and in every part of a long name."""

_FREED = 0xE5
_END = 0x00
_MAX_CLUSTERS = {12: 4084, 16: 65524, 32: 0x0FFFFFF4}


class FATGeometry(NamedTuple):
    """Where the parts of a volume lie; ``bits`` is 12, 16 or 32.

    ``root_cluster`` is 0 for FAT12 and FAT16, whose root has its own region.
    """

    bits: int
    sector_bytes: int
    cluster_bytes: int
    reserved_bytes: int
    fats: int
    fat_bytes: int
    root_bytes: int
    clusters: int
    root_cluster: int
    active_fat: int
    special_sectors: tuple[int, ...]

    @property
    def root_offset(self) -> int:
        """Where the root region of FAT12 and FAT16 begins."""
        return self.reserved_bytes + self.fats * self.fat_bytes

    @property
    def data_offset(self) -> int:
        """Where cluster 2 begins."""
        return self.root_offset + self.root_bytes

    def cluster_offset(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.data_offset + (cluster - 2) * self.cluster_bytes


def is_fat(source: BlockSource) -> bool:
    """Whether the volume begins with the boot sector of a FAT.

    FAT has no magic. This asks for the jump, the 55AA and a BPB in which
    every field has a value that fatgen103 allows, so that neither an MBR nor
    NTFS, exFAT or BitLocker is taken for a FAT.
    """
    if source.size_bytes < 512:
        return False
    sector = source.read_at(0, 512)
    fields = _BPB.unpack_from(sector)
    jump, oem, sector_bytes, per_cluster, reserved, fats = fields[:6]
    return (
        # jmpBoot: EB xx 90 or E9 xx xx
        ((jump[0] == 0xEB and jump[2] == 0x90) or jump[0] == 0xE9)
        and sector[510:512] == b"\x55\xaa"
        and oem not in _FOREIGN_OEM
        and sector_bytes in {512, 1024, 2048, 4096}
        and per_cluster.bit_count() == 1
        and reserved > 0
        and 1 <= fats <= limits.MAX_FATS
        and fields[8] in _MEDIA
        and _has_sizes(sector, fields)
    )


def _has_sizes(sector: bytes, fields: tuple[int, ...]) -> bool:
    """Whether counts are there that fit FAT32 or FAT12/16."""
    root_entries, total16, fat16, total32 = (
        fields[6],
        fields[7],
        fields[9],
        fields[13],
    )
    fat32, _, version, root_cluster, *_ = _BPB32.unpack_from(sector, _BPB32_AT)
    is_32 = fat16 == 0 and fat32 > 0 and root_entries == 0
    if is_32 and (version != 0 or root_cluster < 2):
        return False
    return (is_32 or (fat16 > 0 and root_entries > 0)) and bool(
        total16 or total32
    )


def read_geometry(source: BlockSource) -> FATGeometry:
    """Read the boot sector of a volume for which :func:`is_fat` holds.

    Raises:
        CorruptImageError: Its parts do not fit into one another or into the
            volume.
    """
    sector = source.read_at(0, 512)
    fields = _BPB.unpack_from(sector)
    sector_bytes, per_cluster, reserved, fats, root_entries = fields[2:7]
    wide = fields[9] == 0
    fat_sectors, flags, _, root, fsinfo, backup = _BPB32.unpack_from(
        sector, _BPB32_AT
    )
    fat_bytes = (fat_sectors if wide else fields[9]) * sector_bytes
    # fatgen103, "FAT Data Structure": the root region fills whole sectors.
    root_bytes = -(-root_entries * _ENTRY_BYTES // sector_bytes) * sector_bytes
    total = (fields[7] or fields[13]) * sector_bytes
    data = reserved * sector_bytes + fats * fat_bytes + root_bytes
    cluster_bytes = per_cluster * sector_bytes
    clusters = (total - data) // cluster_bytes
    if total > source.size_bytes or clusters < 1:
        raise CorruptImageError(
            f"FAT: {total} bytes with {data} before the first cluster do not "
            f"fit into {source.size_bytes}; repair it with fsck.fat"
        )
    # ExtFlags: bit 7 set means that only the FAT in bits 0 to 3 is active.
    active = flags & 0x0F if wide and flags & 0x80 else 0
    return _require_tables(
        FATGeometry(
            _fat_bits(clusters, wide=wide),
            sector_bytes,
            cluster_bytes,
            reserved * sector_bytes,
            fats,
            fat_bytes,
            root_bytes,
            clusters,
            root if wide else 0,
            active,
            (fsinfo, backup) if wide else (),
        )
    )


def _fat_bits(clusters: int, *, wide: bool) -> int:
    """Tell the type as Linux and fsck.fat do.

    fatgen103 goes by the cluster count alone, and mtools with it; but small
    system partitions are made with ``mkfs.fat -F 32`` and start machines.
    """
    if wide:
        return 32
    return 12 if clusters <= _MAX_CLUSTERS[12] else 16


def _require_tables(geometry: FATGeometry) -> FATGeometry:
    """Check that tables, FSInfo and backup are where they can be."""
    wanted = -(-(geometry.clusters + 2) * geometry.bits // 8)
    if geometry.fat_bytes < wanted:
        raise CorruptImageError(
            f"FAT: a table of {geometry.fat_bytes} bytes is too short for "
            f"{geometry.clusters} clusters; repair it with fsck.fat"
        )
    if geometry.clusters > _MAX_CLUSTERS[geometry.bits]:
        raise CorruptImageError(
            f"FAT: {geometry.clusters} clusters are too many for "
            f"FAT{geometry.bits}"
        )
    if geometry.active_fat >= geometry.fats:
        raise CorruptImageError(
            f"FAT: table {geometry.active_fat} is the active one of "
            f"{geometry.fats}"
        )
    reserved = geometry.reserved_bytes // geometry.sector_bytes
    for sector in geometry.special_sectors:
        if sector not in _NO_SECTOR and sector >= reserved:
            raise CorruptImageError(
                f"FAT: FSInfo or backup boot sector {sector} is not among "
                f"the {reserved} reserved sectors"
            )
    return geometry


def map_fat(source: BlockSource) -> VolumeMap:
    """Find every byte of metadata of a FAT volume.

    Returns:
        Reserved sectors (boot sector, FSInfo and their backup), all tables,
        the root region and the clusters of every directory.

    Raises:
        CorruptImageError: The volume contradicts itself; ``fsck.fat``.
        LimitExceededError: More directories than ``MAX_FAT_DIRECTORIES``.
    """
    geometry = read_geometry(source)
    builder = ExtentBuilder(source.size_bytes)
    builder.add(0, geometry.reserved_bytes, MetadataClass.BOOT_SECTOR)
    builder.add(
        geometry.reserved_bytes,
        geometry.fats * geometry.fat_bytes,
        MetadataClass.FAT_TABLE,
    )
    builder.add(
        geometry.root_offset, geometry.root_bytes, MetadataClass.DIRECTORY
    )
    for offset in _Walk(source, geometry).directory_offsets():
        builder.add(offset, geometry.cluster_bytes, MetadataClass.DIRECTORY)
    return VolumeMap("vfat", builder.merged(), (f"FAT{geometry.bits}",))


class _Walk:
    """Visits each directory of a volume once."""

    def __init__(self, source: BlockSource, geometry: FATGeometry) -> None:
        self._source, self._geometry = source, geometry
        start = (
            geometry.reserved_bytes + geometry.active_fat * geometry.fat_bytes
        )
        self._table = FATTable(
            source, start, geometry.clusters, bits=geometry.bits
        )
        self._visited: set[int] = set()

    def directory_offsets(self) -> Iterator[int]:
        """Yield where each cluster of each directory begins."""
        root = self._geometry.root_cluster
        waiting = [root] if root else list(self._fixed_root())
        directories = 0
        while waiting:
            directories += 1
            limits.require_limit(
                directories,
                limits.MAX_FAT_DIRECTORIES,
                "the number of directories",
            )
            clusters = self._chain(waiting.pop())
            offsets = [self._geometry.cluster_offset(c) for c in clusters]
            yield from offsets
            waiting += self._subdirectories(offsets)

    def _fixed_root(self) -> Iterator[int]:
        """Yield the first clusters of the directories in a fixed root."""
        yield from _parse_directory(
            self._source.read_at(
                self._geometry.root_offset, self._geometry.root_bytes
            ),
            wide=False,
        )

    def _chain(self, first: int) -> list[int]:
        """Return the clusters of one directory, none seen before."""
        clusters: list[int] = []
        longest = limits.MAX_FAT_DIRECTORY_BYTES
        for cluster in self._table.chain(first):
            if cluster in self._visited:
                raise CorruptImageError(
                    f"FAT: cluster {cluster} is used twice by directories; "
                    "repair it with fsck.fat"
                )
            self._visited.add(cluster)
            clusters.append(cluster)
            limits.require_limit(
                (len(clusters) - 1) * self._geometry.cluster_bytes,
                longest,
                "the length of a directory",
            )
        return clusters

    def _subdirectories(self, offsets: list[int]) -> list[int]:
        """Return the first clusters of what a directory names."""
        length = self._geometry.cluster_bytes
        data = b"".join(self._source.read_at(o, length) for o in offsets)
        return list(_parse_directory(data, wide=self._geometry.bits == 32))


def _parse_directory(data: bytes, *, wide: bool) -> Iterator[int]:
    """Yield the first clusters of the subdirectories in a directory."""
    for at in range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        # DIR_Name[0] of 0: this and all following entries are free.
        if data[at] == _END:
            return
        attributes = data[at + 11]
        if (
            data[at] == _FREED
            or attributes & _ATTRIBUTE_VOLUME
            or not attributes & _ATTRIBUTE_DIRECTORY
            or data[at : at + 11] in {b".          ", b"..         "}
        ):
            continue
        low = int.from_bytes(data[at + 26 : at + 28], "little")
        high = int.from_bytes(data[at + 20 : at + 22], "little")
        # DIR_FstClusHI means nothing on FAT12 and FAT16 (OS/2 kept EAs there).
        yield low | high << 16 if wide else low
