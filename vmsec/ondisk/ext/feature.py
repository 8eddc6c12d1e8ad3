"""Feature words of the superblock: which ones are understood, which refused.

*Every* bit that is not in a ``SUPPORTED_*`` mask refuses the volume. For
``incompat`` the specification demands it. For ``ro_compat`` and ``compat``
it would be enough for reading files, not for finding *all* metadata:
BIGALLOC (``ro_compat``) moves what a bitmap means, SPARSE_SUPER2 (``compat``)
moves the backups, ORPHAN_FILE (``compat``) adds a metadata file. e2fsck
refuses unknown bits of all three words for the same reason. A volume is
never half mapped.

Source:
    Linux Documentation/filesystems/ext4/super.rst and fs/ext4/ext4.h.
"""

from __future__ import annotations

import enum
from typing import Final

from vmsec.errors import UnsupportedFormatError


class Compat(enum.IntFlag):
    """``s_feature_compat``."""

    DIR_PREALLOC = 0x1
    IMAGIC_INODES = 0x2
    HAS_JOURNAL = 0x4
    EXT_ATTR = 0x8
    RESIZE_INODE = 0x10
    DIR_INDEX = 0x20
    LAZY_BG = 0x40
    EXCLUDE_INODE = 0x80
    EXCLUDE_BITMAP = 0x100
    SPARSE_SUPER2 = 0x200
    FAST_COMMIT = 0x400
    STABLE_INODES = 0x800
    ORPHAN_FILE = 0x1000


class Incompat(enum.IntFlag):
    """``s_feature_incompat``."""

    COMPRESSION = 0x1
    FILETYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEV = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    BIT64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    DIRDATA = 0x1000
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class ReadOnlyCompat(enum.IntFlag):
    """``s_feature_ro_compat``."""

    SPARSE_SUPER = 0x1
    LARGE_FILE = 0x2
    BTREE_DIR = 0x4
    HUGE_FILE = 0x8
    GDT_CSUM = 0x10
    DIR_NLINK = 0x20
    EXTRA_ISIZE = 0x40
    HAS_SNAPSHOT = 0x80
    QUOTA = 0x100
    BIGALLOC = 0x200
    METADATA_CSUM = 0x400
    REPLICA = 0x800
    READONLY = 0x1000
    PROJECT = 0x2000
    SHARED_BLOCKS = 0x4000
    VERITY = 0x8000
    ORPHAN_PRESENT = 0x10000


def _all_but(refused: enum.IntFlag) -> int:
    """Return every named bit of a word but those of ``refused``."""
    return sum(flag for flag in type(refused) if not flag & refused)


# What is left out has a name, but no released kernel reads its format.
SUPPORTED_COMPAT: Final = _all_but(
    Compat.LAZY_BG | Compat.EXCLUDE_INODE | Compat.EXCLUDE_BITMAP
)
SUPPORTED_INCOMPAT: Final = _all_but(Incompat.COMPRESSION | Incompat.DIRDATA)
SUPPORTED_RO_COMPAT: Final = _all_but(
    ReadOnlyCompat.HAS_SNAPSHOT | ReadOnlyCompat.REPLICA
)

_EXT3_INCOMPAT: Final = int(
    Incompat.FILETYPE | Incompat.RECOVER | Incompat.META_BG
)
_EXT3_RO_COMPAT: Final = int(
    ReadOnlyCompat.SPARSE_SUPER
    | ReadOnlyCompat.LARGE_FILE
    | ReadOnlyCompat.BTREE_DIR
)


def require_supported(compat: int, incompat: int, ro_compat: int) -> None:
    """Refuse a volume with any feature that is not understood.

    Args:
        compat: ``s_feature_compat`` as read.
        incompat: ``s_feature_incompat`` as read.
        ro_compat: ``s_feature_ro_compat`` as read.

    Raises:
        UnsupportedFormatError: Names the word and the bits.
    """
    for word, value, supported in (
        (Compat, compat, SUPPORTED_COMPAT),
        (Incompat, incompat, SUPPORTED_INCOMPAT),
        (ReadOnlyCompat, ro_compat, SUPPORTED_RO_COMPAT),
    ):
        unknown = value & ~supported
        if unknown:
            named = [flag.name or "" for flag in word if unknown & flag]
            raise UnsupportedFormatError(
                "the ext file system has the feature bits "
                f"{_WORDS[word]} {unknown:#x} ({', '.join(named) or 'unnamed'}"
                ") that vmsec does not know; it cannot be sealed"
            )


_WORDS: Final[dict[type[enum.IntFlag], str]] = {
    Compat: "compat",
    Incompat: "incompat",
    ReadOnlyCompat: "ro_compat",
}


def filesystem_name(compat: int, incompat: int, ro_compat: int) -> str:
    """Return ``ext2``, ``ext3``, ``ext4`` or ``jbd``, as blkid names them."""
    if incompat & Incompat.JOURNAL_DEV:
        return "jbd"
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        return "ext4"
    return "ext3" if compat & Compat.HAS_JOURNAL else "ext2"
