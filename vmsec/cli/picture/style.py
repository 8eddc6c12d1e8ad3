"""How each kind of range looks: a letter, a colour, a word of explanation.

Nothing is told by colour alone: every class has its own letter, and what is
not metadata has a shade or a pattern. The colours are those of Okabe and Ito,
which people with any kind of colour blindness can tell apart.

Source:
    M. Okabe, K. Ito, "Color Universal Design" (2008); contrast as in WCAG
    2.1, success criterion 1.4.3.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import NamedTuple

from vmsec.ondisk.extent import MetadataClass as Class
from vmsec.sealing.survey import Kind, Rest
from vmsec.units import format_bytes

INK, QUIET, PAPER, LINE = "#1F2933", "#5B6673", "#FFFFFF", "#E1E6EB"
_ENOUGH = 4.5


class Colour(enum.StrEnum):
    """What a family of classes is drawn in."""

    START = "#D55E00"
    VOLUME = "#CC79A7"
    FILES = "#0072B2"
    NAMES = "#E69F00"
    SPACE = "#009E73"
    LOG = "#F0E442"
    OTHER = "#56B4E9"
    DATA = "#C3C9D1"
    STRANGE = "#E4E7EB"
    NOTHING = "#FFFFFF"


class Look(NamedTuple):
    """A letter, a colour, and what the kind is in a few words.

    ``pattern`` is ``""``, ``"hatch"`` or ``"dots"``.
    """

    letter: str
    colour: Colour
    words: str
    pattern: str = ""


LOOKS: MappingProxyType[Kind, Look] = MappingProxyType(
    {
        Class.LBA0: Look("L", Colour.START, "boot code, table, or the mark"),
        Class.PARTITION_TABLE: Look("P", Colour.START, "where partitions are"),
        Class.BOOT_SECTOR: Look("B", Colour.START, "how a volume starts"),
        Class.SUPERBLOCK: Look("S", Colour.VOLUME, "what a volume is"),
        Class.GROUP_DESCRIPTORS: Look(
            "G", Colour.VOLUME, "where its tables are"
        ),
        Class.BLOCK_BITMAP: Look("b", Colour.SPACE, "which blocks are used"),
        Class.INODE_BITMAP: Look("i", Colour.SPACE, "which inodes are used"),
        Class.INODE_TABLE: Look("I", Colour.FILES, "every file's description"),
        Class.JOURNAL: Look("J", Colour.LOG, "recent changes of metadata"),
        Class.DIRECTORY: Look("D", Colour.NAMES, "names of files"),
        Class.EXTENT_TREE: Look("E", Colour.FILES, "where contents lie"),
        Class.XATTR: Look("x", Colour.NAMES, "attributes of files"),
        Class.SYMLINK: Look("l", Colour.NAMES, "targets of links"),
        Class.SPECIAL_INODE: Look("s", Colour.FILES, "quotas, orphans"),
        Class.MFT: Look("M", Colour.FILES, "every file's record"),
        Class.MFT_MIRROR: Look("m", Colour.FILES, "copy of the first records"),
        Class.LOGFILE: Look("j", Colour.LOG, "recent changes of metadata"),
        Class.BITMAP: Look("u", Colour.SPACE, "which clusters are used"),
        Class.INDEX: Look("N", Colour.NAMES, "names of files"),
        Class.ATTRIBUTE_LIST: Look("A", Colour.FILES, "where records go on"),
        Class.SYSTEM_FILE: Look("Y", Colour.FILES, "the volume's own files"),
        Class.FAT_TABLE: Look("F", Colour.SPACE, "which clusters make a file"),
        Class.SYSTEM_CHUNK: Look("K", Colour.VOLUME, "where chunks lie"),
        Class.CHUNK: Look("k", Colour.FILES, "trees: files and their names"),
        Class.LVM_METADATA: Look("V", Colour.VOLUME, "where volumes lie"),
        Class.SWAP_HEADER: Look("W", Colour.VOLUME, "what the swap space is"),
        Class.FALLBACK: Look("H", Colour.OTHER, "head, tail of the unknown"),
        Class.MANIFEST: Look("C", Colour.OTHER, "what was sealed, encrypted"),
        Rest.UNKNOWN: Look(
            "?", Colour.STRANGE, "sealed or data: the key would tell", "dots"
        ),
        Rest.ENCRYPTED: Look(
            "#", Colour.STRANGE, "the guest's own encryption", "hatch"
        ),
        Rest.READABLE: Look("+", Colour.DATA, "data; stays readable"),
        Rest.ZERO: Look(".", Colour.NOTHING, "zero or a hole; stays so"),
    }
)
"""One look for each kind; letters are unique and ASCII."""


def _luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.1) of ``#RRGGBB``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.1)."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def ink_on(colour: str) -> str:
    """Return the ink that is legible on a colour: white, dark or black."""
    for ink in (PAPER, INK):
        if contrast(ink, colour) >= _ENOUGH:
            return ink
    return "#000000"


def shaded(colour: str) -> str:
    """Return a darker tone, for edges that paper must not swallow."""
    parts = (int(colour[i : i + 2], 16) * 3 // 5 for i in (1, 3, 5))
    return "#" + "".join(f"{part:02X}" for part in parts)


def amount(count: int) -> str:
    """Write a number of bytes for people; round ones without a fraction."""
    return format_bytes(count).replace(".0 ", " ")


def printable(text: str) -> str:
    """Return a text without what no picture can show.

    File names may hold control characters, which XML 1.0 does not allow, and
    bytes that are no UTF-8.
    """
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def percent(part: int, whole: int) -> str:
    """Write a share for people; what is there is never ``0 %``."""
    share = 100 * part / whole if whole else 0.0
    if not part:
        return "0 %"
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"
