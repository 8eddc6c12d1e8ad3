"""Field tables of ext2, ext3 and ext4 on disk: names, places, meanings.

Only the fields that decide where metadata lies are listed; each keeps the
name of the specification. All integers are little-endian (ext4 ``overview``:
"All fields in ext4 are written to disk in little-endian order"); jbd2 is the
exception, see :mod:`vmsec.ondisk.ext.journal`.

Source:
    Linux Documentation/filesystems/ext4: super.rst, group_descr.rst,
    inodes.rst, ifork.rst; e2fsprogs 1.47 lib/ext2fs/ext2_fs.h.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]
Uint32Array: TypeAlias = npt.NDArray[np.uint32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
RecordArray: TypeAlias = npt.NDArray[Any]
"""Rows of one of the tables below, accessed by field name."""


class Field(NamedTuple):
    """One field: its name, its place in bytes, its numpy format."""

    name: str
    offset: int
    form: str
    meaning: str


SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_BYTES: Final = 1024
MAGIC: Final = 0xEF53
SUPERBLOCK_UUID: Final = slice(0x68, 0x78)
DYNAMIC_REVISION: Final = 1
GOOD_OLD_INODE_BYTES: Final = 128
GOOD_OLD_FIRST_INODE: Final = 11
CHECKSUM_CRC32C: Final = 1

# super.rst, "The Super Block"; s_uuid is the bytes SUPERBLOCK_UUID
SUPERBLOCK: Final[tuple[Field, ...]] = (
    Field("s_inodes_count", 0x00, "<u4", "inodes in all"),
    Field("s_blocks_count_lo", 0x04, "<u4", "blocks in all, low half"),
    Field("s_first_data_block", 0x14, "<u4", "1 with 1 KiB blocks, else 0"),
    Field("s_log_block_size", 0x18, "<u4", "block is 2 ** (10 + this)"),
    Field("s_log_cluster_size", 0x1C, "<u4", "cluster is 2 ** (10 + this)"),
    Field("s_blocks_per_group", 0x20, "<u4", "blocks per group"),
    Field("s_clusters_per_group", 0x24, "<u4", "with BIGALLOC"),
    Field("s_inodes_per_group", 0x28, "<u4", "inodes per group"),
    Field("s_magic", 0x38, "<u2", "0xEF53"),
    Field("s_state", 0x3A, "<u2", "1 clean, 2 errors seen, 4 orphans"),
    Field("s_rev_level", 0x4C, "<u4", "0 fixed sizes, 1 dynamic"),
    Field("s_first_ino", 0x54, "<u4", "first inode of users"),
    Field("s_inode_size", 0x58, "<u2", "bytes of an inode"),
    Field("s_feature_compat", 0x5C, "<u4", "ignorable features"),
    Field("s_feature_incompat", 0x60, "<u4", "features that forbid use"),
    Field("s_feature_ro_compat", 0x64, "<u4", "features that forbid writing"),
    Field("s_reserved_gdt_blocks", 0xCE, "<u2", "room for more descriptors"),
    Field("s_journal_inum", 0xE0, "<u4", "inode of the journal, usually 8"),
    Field("s_desc_size", 0xFE, "<u2", "bytes of a descriptor with 64BIT"),
    Field("s_first_meta_bg", 0x104, "<u4", "first meta group with META_BG"),
    Field("s_blocks_count_hi", 0x150, "<u4", "blocks in all, high half"),
    Field("s_mmp_block", 0x168, "<u8", "multi-mount protection with MMP"),
    Field("s_checksum_type", 0x175, "u1", "1 is crc32c"),
    Field("s_usr_quota_inum", 0x240, "<u4", "user quota file with QUOTA"),
    Field("s_grp_quota_inum", 0x244, "<u4", "group quota file with QUOTA"),
    Field("s_backup_bgs_0", 0x24C, "<u4", "backup group with SPARSE_SUPER2"),
    Field("s_backup_bgs_1", 0x250, "<u4", "backup group with SPARSE_SUPER2"),
    Field("s_prj_quota_inum", 0x26C, "<u4", "project quota with PROJECT"),
    Field("s_checksum_seed", 0x270, "<u4", "with CSUM_SEED"),
    Field("s_orphan_file_inum", 0x280, "<u4", "with ORPHAN_FILE"),
    Field("s_checksum", 0x3FC, "<u4", "crc32c of all before it"),
)

# group_descr.rst, "Block Group Descriptors"; the *_hi fields only with 64BIT
GROUP_DESCRIPTOR: Final[tuple[Field, ...]] = (
    Field("bg_block_bitmap_lo", 0x00, "<u4", "block of the block bitmap"),
    Field("bg_inode_bitmap_lo", 0x04, "<u4", "block of the inode bitmap"),
    Field("bg_inode_table_lo", 0x08, "<u4", "first block of the inodes"),
    Field("bg_flags", 0x12, "<u2", "see BG_*"),
    Field("bg_itable_unused_lo", 0x1C, "<u2", "never used inodes at the end"),
    Field("bg_checksum", 0x1E, "<u2", "crc16, or low half of crc32c"),
)
GROUP_DESCRIPTOR_HIGH: Final[tuple[Field, ...]] = (
    Field("bg_block_bitmap_hi", 0x20, "<u4", "high half"),
    Field("bg_inode_bitmap_hi", 0x24, "<u4", "high half"),
    Field("bg_inode_table_hi", 0x28, "<u4", "high half"),
    Field("bg_itable_unused_hi", 0x32, "<u2", "high half"),
)
DESCRIPTOR_BYTES: Final = 32
DESCRIPTOR_BYTES_64BIT: Final = 64
MAX_DESCRIPTOR_BYTES: Final = 1024
DESCRIPTOR_CHECKSUM_OFFSET: Final = 0x1E
BG_INODE_UNINIT: Final = 0x1
BG_BLOCK_UNINIT: Final = 0x2

# inodes.rst, "Index Nodes"
INODE: Final[tuple[Field, ...]] = (
    Field("i_mode", 0x00, "<u2", "type and permissions"),
    Field("i_size_lo", 0x04, "<u4", "bytes of the file, low half"),
    Field("i_flags", 0x20, "<u4", "see FLAG_*"),
    Field("i_block", 0x28, "(15,)<u4", "block map, extent root or content"),
    Field("i_file_acl_lo", 0x68, "<u4", "block of extended attributes"),
    Field("i_size_high", 0x6C, "<u4", "bytes of the file, high half"),
    Field("l_i_file_acl_high", 0x76, "<u2", "high part with 64BIT"),
)
TYPE_MASK: Final = 0xF000
TYPE_DIRECTORY: Final = 0x4000
TYPE_REGULAR: Final = 0x8000
TYPE_SYMLINK: Final = 0xA000
FLAG_EXTENTS: Final = 0x80000
FLAG_EA_INODE: Final = 0x200000
FLAG_INLINE_DATA: Final = 0x10000000

# super.rst, "Special inodes"
BAD_BLOCKS_INODE: Final = 1
ROOT_INODE: Final = 2
RESIZE_INODE: Final = 7

FAST_SYMLINK_BYTES: Final = 60
"""A shorter target lies in ``i_block`` itself (ext4 ``ifork.rst``)."""

# ifork.rst, "Direct/Indirect Block Addressing"
DIRECT_POINTERS: Final = 12
INDIRECT_COLUMNS: Final = ((12, 1), (13, 2), (14, 3))
"""Column of ``i_block`` and levels of pointers below it."""

# ifork.rst, "Extent Tree": a header and entries of three words each
EXTENT_MAGIC: Final = 0xF30A
EXTENT_WORDS: Final = 3
MAX_EXTENT_DEPTH: Final = 5
MAX_EXTENT_BLOCKS: Final = 32768
"""A longer ``ee_len`` means an unwritten extent of ``ee_len`` - this."""


def record_type(fields: tuple[Field, ...], size_bytes: int) -> np.dtype[Any]:
    """Return the numpy record type of a table, ``size_bytes`` per record."""
    return np.dtype(
        {
            "names": [field.name for field in fields],
            "formats": [field.form for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": size_bytes,
        }
    )
