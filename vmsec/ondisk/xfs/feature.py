"""Feature words of the superblock: which ones are understood, which refused.

*Every* bit that is not in a ``SUPPORTED_*`` mask refuses the volume, also one
that would be harmless to readers: it may stand for metadata that lies where
nothing here looks for it. A volume is never half mapped. METADIR and ZONED
have names, but keep inodes and trees in places of their own.

Source:
    Linux fs/xfs/libxfs/xfs_format.h (``xfs_sb_good_v4_features``,
    ``XFS_SB_FEAT_*``).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from vmsec.errors import CorruptImageError, UnsupportedFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION_MASK: Final = 0x000F
VERSION_4: Final = 4
VERSION_5: Final = 5


class Version(enum.IntFlag):
    """``sb_versionnum`` without its number."""

    ATTR = 0x10
    NLINK = 0x20
    QUOTA = 0x40
    ALIGN = 0x80
    DALIGN = 0x100
    SHARED = 0x200
    LOGV2 = 0x400
    SECTOR = 0x800
    EXTFLG = 0x1000
    DIRV2 = 0x2000
    BORG = 0x4000
    MOREBITS = 0x8000


class Version2(enum.IntFlag):
    """``sb_features2``."""

    RESERVED1 = 0x1
    LAZYSBCOUNT = 0x2
    RESERVED4 = 0x4
    ATTR2 = 0x8
    PARENT = 0x10
    PROJID32 = 0x80
    CRC = 0x100
    FTYPE = 0x200


class Compat(enum.IntFlag):
    """``sb_features_compat``: nothing is defined."""


class ReadOnlyCompat(enum.IntFlag):
    """``sb_features_ro_compat``."""

    FINOBT = 0x1
    RMAPBT = 0x2
    REFLINK = 0x4
    INOBTCNT = 0x8


class Incompat(enum.IntFlag):
    """``sb_features_incompat``."""

    FTYPE = 0x1
    SPINODES = 0x2
    META_UUID = 0x4
    BIGTIME = 0x8
    NEEDSREPAIR = 0x10
    NREXT64 = 0x20
    EXCHRANGE = 0x40
    PARENT = 0x80
    METADIR = 0x100
    ZONED = 0x200
    ZONE_GAPS = 0x400


class LogIncompat(enum.IntFlag):
    """``sb_features_log_incompat``."""

    XATTRS = 0x1


def _all_but(refused: enum.IntFlag) -> int:
    """Return every named bit of a word but those of ``refused``.

    As a plain number: the complement of a flag knows named bits only.
    """
    return sum(flag for flag in type(refused) if not flag & refused)


# SHARED was never defined; directories of version 1 are no longer mounted.
_SUPPORTED_VERSION: Final = _all_but(Version.SHARED)
_SUPPORTED_VERSION2: Final = _all_but(
    Version2.RESERVED1 | Version2.RESERVED4 | Version2.PARENT | Version2.CRC
)
_SUPPORTED_INCOMPAT: Final = _all_but(
    Incompat.METADIR | Incompat.ZONED | Incompat.ZONE_GAPS
)

_WORDS_5: Final[tuple[tuple[str, type[enum.IntFlag], int], ...]] = (
    ("sb_features_compat", Compat, 0),
    ("sb_features_ro_compat", ReadOnlyCompat, sum(ReadOnlyCompat)),
    ("sb_features_incompat", Incompat, _SUPPORTED_INCOMPAT),
    ("sb_features_log_incompat", LogIncompat, sum(LogIncompat)),
)


def require_supported(raw: Mapping[str, int]) -> None:
    """Refuse a volume of a version or with a feature that is not understood.

    Args:
        raw: The superblock's fields as read.

    Raises:
        UnsupportedFormatError: Names the word and the bits.
        CorruptImageError: NEEDSREPAIR: no kernel mounts it before a repair.
    """
    number = raw["sb_versionnum"] & VERSION_MASK
    if number == VERSION_5:
        for name, word, supported in _WORDS_5:
            _require_word(name, word, raw[name], supported)
        if raw["sb_features_incompat"] & Incompat.NEEDSREPAIR:
            raise CorruptImageError(
                "xfs: the file system is marked NEEDSREPAIR; run xfs_repair "
                "in the guest first"
            )
    elif number == VERSION_4:
        _require_version_4(raw["sb_versionnum"] & ~VERSION_MASK, raw)
    else:
        raise UnsupportedFormatError(
            f"the XFS file system has version {number}, which vmsec does "
            "not know; it cannot be sealed"
        )


def _require_version_4(flags: int, raw: Mapping[str, int]) -> None:
    """Refuse features of version 4 (xfs_sb_good_v4_features)."""
    _require_word("sb_versionnum", Version, flags, _SUPPORTED_VERSION)
    # The second word counts only if the first says so.
    if flags & Version.MOREBITS:
        name = "sb_features2"
        _require_word(name, Version2, raw[name], _SUPPORTED_VERSION2)
    if not flags & Version.DIRV2:
        raise UnsupportedFormatError(
            "the XFS file system has directories of version 1, which vmsec "
            "does not know; it cannot be sealed"
        )


def _require_word(
    name: str, word: type[enum.IntFlag], value: int, supported: int
) -> None:
    """Refuse unknown bits of one word."""
    unknown = value & ~supported
    if unknown:
        named = [flag.name or "" for flag in word if unknown & flag]
        raise UnsupportedFormatError(
            f"the XFS file system has the feature bits {name} {unknown:#x} "
            f"({', '.join(named) or 'unnamed'}) that vmsec does not know; it "
            "cannot be sealed"
        )
