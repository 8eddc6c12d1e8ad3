"""Small ext volumes in memory, field by field, for what mke2fs never makes."""

from __future__ import annotations

import struct
from typing import Any

from vmsec.ondisk.source import MemorySource

BLOCK = 1024
INODE = 128
INODES_PER_GROUP = 64
BLOCKS_PER_GROUP = 256
TABLE_BLOCKS = INODES_PER_GROUP * INODE // BLOCK
SUPERBLOCK_PLACE = 1024
GROUP_TABLE = 2 * BLOCK
FIRST_FREE = 20
"""First block of group 0 without a structure."""

REGULAR, DIRECTORY, SYMLINK = 0x8000, 0x4000, 0xA000
EXTENTS, EA_INODE, INLINE = 0x80000, 0x200000, 0x10000000


class Volume:
    """A volume of 1 KiB blocks and 128-byte inodes, without checksums.

    Group 0: superblock 1, descriptors 2, bitmaps 3 and 4, inodes from 5.
    Other groups have their structures at the same places plus 256 blocks.
    """

    def __init__(self, groups: int = 1, **fields: int) -> None:
        self.groups = groups
        blocks = groups * BLOCKS_PER_GROUP + 1
        self.data = bytearray(blocks * BLOCK)
        for field, value in {
            "s_inodes_count": groups * INODES_PER_GROUP,
            "s_blocks_count_lo": blocks,
            "s_first_data_block": 1,
            "s_blocks_per_group": BLOCKS_PER_GROUP,
            "s_clusters_per_group": BLOCKS_PER_GROUP,
            "s_inodes_per_group": INODES_PER_GROUP,
            "s_magic": 0xEF53,
            "s_state": 1,
            "s_rev_level": 1,
            "s_first_ino": 11,
            "s_inode_size": INODE,
            **fields,
        }.items():
            self.set(field, value)
        for group in range(groups):
            base = group * BLOCKS_PER_GROUP
            self.describe(group, base + 3, base + 4, base + 5)

    def set(self, field: str, value: int) -> None:
        """Set a field of the superblock by its name in the specification."""
        place, form = _SUPERBLOCK[field]
        struct.pack_into(form, self.data, SUPERBLOCK_PLACE + place, value)

    def describe(
        self, group: int, *places: int, flags: int = 0, unused: int = 0
    ) -> None:
        """Write a group descriptor: block bitmap, inode bitmap, table."""
        at = GROUP_TABLE + 32 * group
        struct.pack_into("<III", self.data, at, *places)
        struct.pack_into("<H", self.data, at + 0x12, flags)
        struct.pack_into("<H", self.data, at + 0x1C, unused)

    def put_inode(
        self,
        number: int,
        mode: int,
        words: Any = (),
        *,
        flags: int = 0,
        size: int = 0,
        acl: int = 0,
        used: bool = True,
    ) -> None:
        """Write an inode; ``words`` is the head of ``i_block``."""
        group, index = divmod(number - 1, INODES_PER_GROUP)
        base = group * BLOCKS_PER_GROUP
        at = (base + 5) * BLOCK + index * INODE
        words = [*words, *[0] * (15 - len(words))]
        struct.pack_into("<HxxI", self.data, at, mode, size)
        struct.pack_into("<I4x15I", self.data, at + 32, flags, *words)
        struct.pack_into("<I", self.data, at + 0x68, acl)
        if used:
            self.data[(base + 4) * BLOCK + index // 8] |= 1 << index % 8

    def put_words(self, block: int, words: list[int]) -> None:
        """Write a block of little-endian words."""
        struct.pack_into(f"<{len(words)}I", self.data, block * BLOCK, *words)

    @property
    def source(self) -> MemorySource:
        """The volume as it is now."""
        return MemorySource(bytes(self.data))


def extent_header(entries: int, depth: int, room: int = 4) -> list[int]:
    """Return the three words of an extent-tree header."""
    return [0xF30A | entries << 16, room | depth << 16, 0]


def extents(*runs: tuple[int, int]) -> list[int]:
    """Return a leaf root: (first block, raw length) of each extent."""
    words = extent_header(len(runs), 0)
    for number, (start, length) in enumerate(runs):
        words += [number, length | start >> 32 << 16, start & 0xFFFFFFFF]
    return words


def index(depth: int, *children: int) -> list[int]:
    """Return an index root with children below."""
    words = extent_header(len(children), depth)
    for number, child in enumerate(children):
        words += [number, child, 0]
    return words


_SUPERBLOCK = {
    "s_inodes_count": (0x00, "<I"),
    "s_blocks_count_lo": (0x04, "<I"),
    "s_first_data_block": (0x14, "<I"),
    "s_log_block_size": (0x18, "<I"),
    "s_log_cluster_size": (0x1C, "<I"),
    "s_blocks_per_group": (0x20, "<I"),
    "s_clusters_per_group": (0x24, "<I"),
    "s_inodes_per_group": (0x28, "<I"),
    "s_magic": (0x38, "<H"),
    "s_state": (0x3A, "<H"),
    "s_rev_level": (0x4C, "<I"),
    "s_first_ino": (0x54, "<I"),
    "s_inode_size": (0x58, "<H"),
    "s_feature_compat": (0x5C, "<I"),
    "s_feature_incompat": (0x60, "<I"),
    "s_feature_ro_compat": (0x64, "<I"),
    "s_reserved_gdt_blocks": (0xCE, "<H"),
    "s_journal_inum": (0xE0, "<I"),
    "s_desc_size": (0xFE, "<H"),
    "s_first_meta_bg": (0x104, "<I"),
    "s_blocks_count_hi": (0x150, "<I"),
    "s_mmp_block": (0x168, "<Q"),
    "s_checksum_type": (0x175, "<B"),
    "s_usr_quota_inum": (0x240, "<I"),
    "s_grp_quota_inum": (0x244, "<I"),
    "s_backup_bgs_0": (0x24C, "<I"),
    "s_backup_bgs_1": (0x250, "<I"),
    "s_prj_quota_inum": (0x26C, "<I"),
    "s_checksum_seed": (0x270, "<I"),
    "s_orphan_file_inum": (0x280, "<I"),
    "s_checksum": (0x3FC, "<I"),
}
