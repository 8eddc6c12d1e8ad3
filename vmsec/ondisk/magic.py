"""Formats that are known by a constant at a fixed place.

The first table lists encryption, which is never touched; the second, formats
whose structures are not mapped yet: they are named for the operator and
sealed by the fallback rule.

Units:
    Offsets are bytes from the start of the volume, or from its end where
    negative.

Source:
    The formats' own headers; util-linux ``libblkid/src/superblocks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmsec.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmsec.ondisk.source import BlockSource


class Magic(NamedTuple):
    """A format and the places where one constant gives it away."""

    name: str
    constant: bytes
    offsets: tuple[int, ...]


_LUKS2_SECONDARY = tuple(16 * KIB << n for n in range(9))
"""LUKS2 on-disk format 1.1.2, section 2.2: where the second header may be."""

_ZFS_UBERBLOCKS = tuple((128 + n) * KIB for n in range(128))
"""The ring of uberblocks in the first label."""

ENCRYPTED = (
    Magic("LUKS", b"LUKS\xba\xbe", (0,)),
    Magic("LUKS", b"SKUL\xba\xbe", _LUKS2_SECONDARY),
    Magic("BitLocker", b"-FVE-FS-", (3,)),
    Magic(
        "BitLocker To Go",
        bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"),
        (0x1A8,),
    ),
    Magic("GELI", b"GEOM::ELI\0", (-512, -4096)),
)
"""Volumes that carry their own encryption (DESIGN 3.2)."""

UNMAPPED = (
    Magic("ReFS", b"ReFS\0\0\0\0", (3,)),
    Magic("F2FS", bytes.fromhex("1020f5f2"), (1024,)),
    Magic("NILFS2", bytes.fromhex("3434"), (1030,)),
    Magic("JFS", b"JFS1", (32 * KIB,)),
    Magic("ReiserFS", b"ReIsEr", (0x10034, 0x2034)),
    Magic("HFS+", b"H+\0\x04", (1024,)),
    Magic("HFS+", b"HX\0\x05", (1024,)),
    Magic("APFS", b"NXSB", (32,)),
    Magic("UFS2", bytes.fromhex("19015419"), (0x1055C,)),
    Magic("ZFS", bytes.fromhex("0cb1ba0000000000"), _ZFS_UBERBLOCKS),
    Magic("GFS2", bytes.fromhex("01161970"), (64 * KIB,)),
    Magic("OCFS2", b"OCFSV2", (1 * KIB, 2 * KIB, 4 * KIB, 8 * KIB)),
    Magic("EROFS", bytes.fromhex("e2e1f5e0"), (1024,)),
    Magic("SquashFS", b"hsqs", (0,)),
    Magic("ISO 9660", b"CD001", (0x8001,)),
    Magic("Linux RAID member", bytes.fromhex("fc4e2ba9"), (0, 4 * KIB)),
)
"""Recognised, not mapped. Weak constants stand behind strong ones."""


def match(source: BlockSource, table: Iterable[Magic]) -> str | None:
    """Return the name of the first format of a table that matches."""
    for magic in table:
        if any(_is_at(source, magic.constant, at) for at in magic.offsets):
            return magic.name
    return None


def _is_at(source: BlockSource, constant: bytes, at: int) -> bool:
    """Whether the constant stands at an offset, if that is in the volume."""
    offset = at if at >= 0 else source.size_bytes + at
    inside = 0 <= offset <= source.size_bytes - len(constant)
    return inside and source.read_at(offset, len(constant)) == constant
