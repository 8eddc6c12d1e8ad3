"""Extents: which bytes of a disk are metadata, and of which class."""

from __future__ import annotations

import enum
from typing import NamedTuple

from vmsec.ondisk.source import require_inside


class Level(enum.StrEnum):
    """How much of a disk is sealed (DESIGN 3.1)."""

    BOOT = "boot"
    METADATA = "metadata"


class MetadataClass(enum.StrEnum):
    """What an extent holds. The order is the order of display."""

    LBA0 = "lba0"
    PARTITION_TABLE = "partition-table"
    BOOT_SECTOR = "boot-sector"
    SUPERBLOCK = "superblock"
    GROUP_DESCRIPTORS = "group-descriptors"
    BLOCK_BITMAP = "block-bitmap"
    INODE_BITMAP = "inode-bitmap"
    INODE_TABLE = "inode-table"
    JOURNAL = "journal"
    DIRECTORY = "directory"
    EXTENT_TREE = "extent-tree"
    XATTR = "xattr"
    SYMLINK = "symlink"
    SPECIAL_INODE = "special-inode"
    MFT = "mft"
    MFT_MIRROR = "mft-mirror"
    LOGFILE = "logfile"
    BITMAP = "bitmap"
    INDEX = "index"
    ATTRIBUTE_LIST = "attribute-list"
    SYSTEM_FILE = "system-file"
    FAT_TABLE = "fat-table"
    SYSTEM_CHUNK = "system-chunk"
    CHUNK = "chunk"
    LVM_METADATA = "lvm-metadata"
    SWAP_HEADER = "swap-header"
    FALLBACK = "fallback"
    MANIFEST = "manifest"


BOOT_CLASSES = frozenset(
    {
        MetadataClass.LBA0,
        MetadataClass.PARTITION_TABLE,
        MetadataClass.BOOT_SECTOR,
        MetadataClass.SUPERBLOCK,
        MetadataClass.GROUP_DESCRIPTORS,
        MetadataClass.MFT_MIRROR,
        MetadataClass.FAT_TABLE,
        MetadataClass.SYSTEM_CHUNK,
        MetadataClass.LVM_METADATA,
        MetadataClass.SWAP_HEADER,
        MetadataClass.FALLBACK,
    }
)
"""What level ``boot`` seals; :data:`MetadataClass.MFT` is cut to its first
records by the planner."""


class Extent(NamedTuple):
    """A run of bytes of one class.

    ``offset`` and ``length`` are bytes from the start of the source that was
    parsed (a volume map) or of the disk (a plan).
    """

    offset: int
    length: int
    kind: MetadataClass

    @property
    def end(self) -> int:
        """First byte behind the extent."""
        return self.offset + self.length


class VolumeMap(NamedTuple):
    """What a parser found on one volume.

    ``filesystem`` is the usual name (``"ext4"``, ``"ntfs"``, ``"vfat"``);
    ``extents`` are relative to the volume, sorted by offset, and may touch
    but not overlap; ``notes`` are for the operator.
    """

    filesystem: str
    extents: tuple[Extent, ...]
    notes: tuple[str, ...] = ()


class ExtentBuilder:
    """Collects extents of one volume and checks each against its size.

    Args:
        size_bytes: Length of the volume in bytes.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._extents: list[Extent] = []

    def add(self, offset: int, length: int, kind: MetadataClass) -> None:
        """Add an extent in bytes; empty ones are ignored.

        Raises:
            CorruptImageError: It is not inside the volume.
        """
        require_inside(self._size, offset, length)
        if length:
            self._extents.append(Extent(offset, length, kind))

    def merged(self) -> tuple[Extent, ...]:
        """Return the extents sorted, joined where equal kinds touch.

        Where extents overlap, the one that begins first keeps the shared
        bytes (structures of a healthy volume do not overlap; in a hostile one
        it does not matter which class a byte is counted in).
        """
        result: list[Extent] = []
        for extent in sorted(self._extents):
            last = result[-1] if result else None
            start = max(extent.offset, last.end) if last else extent.offset
            if start >= extent.end:
                continue
            if last and last.end == start and last.kind == extent.kind:
                result[-1] = Extent(
                    last.offset, extent.end - last.offset, last.kind
                )
            else:
                result.append(Extent(start, extent.end - start, extent.kind))
        return tuple(result)
