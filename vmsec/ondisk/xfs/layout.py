"""Field tables of XFS on disk: names, places, meanings.

Only the fields that decide where metadata lies are listed; each keeps the
name of the specification. Integers are big-endian, checksums little-endian
("XFS Algorithms & Data Structures", 3rd edition, chapters 9 and 10).

Source:
    XFS Algorithms & Data Structures, 3rd edition (in short XADS); Linux
    fs/xfs/libxfs/xfs_format.h.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]
ByteMatrix: TypeAlias = npt.NDArray[np.uint8]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
RecordArray: TypeAlias = npt.NDArray[Any]
"""Rows of one of the tables below, accessed by field name."""


class Field(NamedTuple):
    """One field: its name, its place in bytes, its numpy format."""

    name: str
    offset: int
    form: str
    meaning: str


BASIC_BLOCK_BYTES: Final = 512
"""The unit of the log and of what the log says (XADS 11; BBSIZE)."""

SUPERBLOCK_MAGIC: Final = 0x58465342
SUPERBLOCK_BYTES: Final = 512
SUPERBLOCK_UUID: Final = slice(32, 48)
SUPERBLOCK_META_UUID: Final = slice(248, 264)
SUPERBLOCK_CRC: Final = 224

# XADS 13.1, struct xfs_dsb
SUPERBLOCK: Final[tuple[Field, ...]] = (
    Field("sb_magicnum", 0, ">u4", "XFSB"),
    Field("sb_blocksize", 4, ">u4", "bytes of a block"),
    Field("sb_dblocks", 8, ">u8", "blocks in all"),
    Field("sb_rblocks", 16, ">u8", "blocks of the realtime device"),
    Field("sb_logstart", 48, ">u8", "first block of the log; 0: external"),
    Field("sb_rootino", 56, ">u8", "inode of the root directory"),
    Field("sb_rbmino", 64, ">u8", "inode of the realtime bitmap"),
    Field("sb_rsumino", 72, ">u8", "inode of the realtime summary"),
    Field("sb_agblocks", 84, ">u4", "blocks of an allocation group"),
    Field("sb_agcount", 88, ">u4", "allocation groups"),
    Field("sb_logblocks", 96, ">u4", "blocks of the log"),
    Field("sb_versionnum", 100, ">u2", "version and flags of version 4"),
    Field("sb_sectsize", 102, ">u2", "bytes of a sector"),
    Field("sb_inodesize", 104, ">u2", "bytes of an inode"),
    Field("sb_inopblock", 106, ">u2", "inodes in a block"),
    Field("sb_blocklog", 120, "u1", "log2 of sb_blocksize"),
    Field("sb_sectlog", 121, "u1", "log2 of sb_sectsize"),
    Field("sb_inodelog", 122, "u1", "log2 of sb_inodesize"),
    Field("sb_inopblog", 123, "u1", "log2 of sb_inopblock"),
    Field("sb_agblklog", 124, "u1", "log2 of sb_agblocks, rounded up"),
    Field("sb_inprogress", 126, "u1", "mkfs or growfs is at work"),
    Field("sb_uquotino", 160, ">u8", "user quota inode"),
    Field("sb_gquotino", 168, ">u8", "group (version 4: or project) quota"),
    Field("sb_dirblklog", 192, "u1", "log2 of blocks of a directory block"),
    Field("sb_features2", 200, ">u4", "more flags of version 4"),
    Field("sb_features_compat", 208, ">u4", "version 5: ignorable"),
    Field("sb_features_ro_compat", 212, ">u4", "version 5: forbid writing"),
    Field("sb_features_incompat", 216, ">u4", "version 5: forbid use"),
    Field("sb_features_log_incompat", 220, ">u4", "version 5: of the log"),
    Field("sb_crc", 224, "<u4", "crc32c of the sector"),
    Field("sb_pquotino", 232, ">u8", "version 5: project quota inode"),
)

NULL_INODE: Final = (1 << 64) - 1
"""``NULLFSINO``: no such inode."""

# XADS 13.2.1, struct xfs_agf; *_bno, *_cnt and *_rmap are arrays there
AGF_MAGIC: Final = 0x58414746
AGF: Final[tuple[Field, ...]] = (
    Field("magic", 0, ">u4", "XAGF"),
    Field("version", 4, ">u4", "1"),
    Field("seqno", 8, ">u4", "number of the allocation group"),
    Field("length", 12, ">u4", "its blocks"),
    Field("root_bno", 16, ">u4", "free space by place: root block"),
    Field("root_cnt", 20, ">u4", "free space by size: root block"),
    Field("root_rmap", 24, ">u4", "reverse map: root block"),
    Field("level_bno", 28, ">u4", "levels of that tree"),
    Field("level_cnt", 32, ">u4", "levels of that tree"),
    Field("level_rmap", 36, ">u4", "levels of that tree"),
    Field("flfirst", 40, ">u4", "first entry of the free list in use"),
    Field("fllast", 44, ">u4", "last entry of the free list in use"),
    Field("flcount", 48, ">u4", "entries of the free list in use"),
    Field("root_refc", 88, ">u4", "reference counts: root block"),
    Field("level_refc", 92, ">u4", "levels of that tree"),
    Field("crc", 216, "<u4", "version 5: crc32c of the sector"),
)
AGF_UUID: Final = 64
AGF_CRC: Final = 216

# XADS 13.3.1, struct xfs_agi
AGI_MAGIC: Final = 0x58414749
AGI: Final[tuple[Field, ...]] = (
    Field("magic", 0, ">u4", "XAGI"),
    Field("version", 4, ">u4", "1"),
    Field("seqno", 8, ">u4", "number of the allocation group"),
    Field("length", 12, ">u4", "its blocks"),
    Field("root_ino", 20, ">u4", "inode chunks: root block"),
    Field("level_ino", 24, ">u4", "levels of that tree"),
    Field("crc", 312, "<u4", "version 5: crc32c of the sector"),
    Field("root_fino", 328, ">u4", "chunks with free inodes: root block"),
    Field("level_fino", 332, ">u4", "levels of that tree"),
)
AGI_UUID: Final = 296
AGI_CRC: Final = 312
AGH_VERSION: Final = 1

# XADS 13.2.3, struct xfs_agfl; version 4 has no header
AGFL_MAGIC: Final = 0x5841464C
AGFL: Final[tuple[Field, ...]] = (
    Field("magic", 0, ">u4", "XAFL"),
    Field("seqno", 4, ">u4", "number of the allocation group"),
    Field("crc", 32, "<u4", "crc32c of the sector"),
)
AGFL_UUID: Final = 8
AGFL_CRC: Final = 32
AGFL_HEADER_BYTES: Final = 36

AG_HEADER_SECTORS: Final = 4
"""Superblock, AGF, AGI and AGFL, one sector each."""

NULL_BLOCK: Final = 0xFFFFFFFF
"""``NULLAGBLOCK``."""

# XADS 8, struct xfs_btree_block; short: pointers within the group
BLOCK: Final[tuple[Field, ...]] = (
    Field("bb_magic", 0, ">u4", "which tree"),
    Field("bb_level", 4, ">u2", "0 is a leaf"),
    Field("bb_numrecs", 6, ">u2", "records, or keys and pointers"),
)
SHORT_HEADER: Final = (16, 56)
LONG_HEADER: Final = (24, 72)
"""Bytes of the header in version 4 and 5."""

SHORT_SELF: Final = (16, 32, 52)
LONG_SELF: Final = (24, 40, 64)
"""Version 5: places of ``bb_blkno``, ``bb_uuid`` and ``bb_crc``."""

MAX_LEVELS: Final = 9
"""``XFS_BTREE_MAXLEVELS`` in every kernel that mounts what is known here."""

# XADS 14.2, struct xfs_dinode; *_nrext64 only with DIFLAG2_NREXT64
INODE: Final[tuple[Field, ...]] = (
    Field("di_magic", 0, ">u2", "IN"),
    Field("di_mode", 2, ">u2", "type and permissions"),
    Field("di_version", 4, "u1", "1 or 2; 3 in version 5"),
    Field("di_format", 5, "u1", "format of the data fork, see FORMAT_*"),
    Field("di_big_nextents", 24, ">u8", "extents of the data fork, NREXT64"),
    Field("di_nextents", 76, ">u4", "extents of the data fork"),
    Field("di_anextents", 80, ">u2", "extents of the attribute fork"),
    Field("di_forkoff", 82, "u1", "where that begins, in 8 bytes; 0: none"),
    Field("di_aformat", 83, "u1", "format of the attribute fork"),
)
# struct xfs_dinode, "extended dinode"
INODE_V3: Final[tuple[Field, ...]] = (
    *INODE,
    Field("di_crc", 100, "<u4", "crc32c of the inode"),
    Field("di_flags2", 120, ">u8", "more flags"),
    Field("di_ino", 152, ">u8", "its own number"),
)
INODE_MAGIC: Final = 0x494E
INODE_CORE_BYTES: Final = 100
INODE_V3_CORE_BYTES: Final = 176
INODE_CRC: Final = 100
INODE_UUID: Final = slice(160, 176)
LARGE_ATTRIBUTE_EXTENTS: Final = 76
"""``di_big_anextents`` takes the place of ``di_nextents`` with NREXT64."""

FLAG2_NREXT64: Final = 1 << 4
TYPE_MASK: Final = 0xF000
TYPE_DIRECTORY: Final = 0x4000
TYPE_REGULAR: Final = 0x8000
TYPE_SYMLINK: Final = 0xA000

FORMAT_DEVICE: Final = 0
FORMAT_LOCAL: Final = 1
FORMAT_EXTENTS: Final = 2
FORMAT_BTREE: Final = 3

# XADS 13.3.2, struct xfs_inobt_rec
CHUNK: Final[tuple[Field, ...]] = (
    Field("ir_startino", 0, ">u4", "first inode, within the group"),
    Field("ir_holemask", 4, ">u2", "sparse: a bit for four missing inodes"),
    Field("ir_free", 8, ">u8", "a bit for each free inode"),
)
CHUNK_BYTES: Final = 16
CHUNK_INODES: Final = 64
HOLE_INODES: Final = 4

EXTENT_BYTES: Final = 16
"""``struct xfs_bmbt_rec``: two big-endian words (XADS 17.1)."""

ROOT_HEADER_BYTES: Final = 4
"""``struct xfs_bmdr_block``: ``bb_level`` and ``bb_numrecs``."""


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
