"""What LVM2 keeps for itself: the label and the metadata areas.

A metadata area is a header and a ring of text: each change of the group is
written behind the last, so the ring holds old texts too.

Units:
    Bytes from the start of the physical volume; sectors have 512 bytes
    whatever the disk's have.

Source:
    LVM2 ``lib/label/label.h``, ``lib/format_text/layout.h`` and
    ``lib/format_text/format-text.c``.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError
from vmsec.ondisk import limits
from vmsec.ondisk.lvm.text import Section, number, parse_text, string
from vmsec.ondisk.source import require_inside

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

SECTOR_BYTES = 512
LABEL_SECTORS = 4
"""The label is in one of the first four sectors."""

HEADER_BYTES = 512
"""Of a metadata area; the ring of text follows."""

_LABEL = struct.Struct("<8sQII8s")
_LABEL_ID, _LABEL_TYPE = b"LABELONE", b"LVM2 001"
_CRC_FROM = 20
_PV = struct.Struct("<32sQ")
_AREA = struct.Struct("<QQ")
_EXTENSION = struct.Struct("<II")
_EXTENSION_USED = 1
_MDA = struct.Struct("<I16sIQQ")
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_LOCATION = struct.Struct("<QQII")
_SEED = 0xF597A6CF


class Area(NamedTuple):
    """A run of bytes that LVM2 keeps metadata in."""

    offset: int
    length: int


class PhysicalVolume(NamedTuple):
    """What the label says.

    ``identity`` has 32 characters and no dashes; ``is_used`` tells that it
    belongs to a group, whether or not an area here describes it.
    """

    identity: str
    areas: tuple[Area, ...]
    is_used: bool


class GroupText(NamedTuple):
    """A volume group's section and the note that other copies are wrong."""

    group: Section
    notes: tuple[str, ...]


def checksum(data: bytes) -> int:
    """Return LVM2's CRC-32: it has its own seed and is never inverted."""
    return zlib.crc32(data, _SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def has_label(source: BlockSource) -> bool:
    """Whether one of the first sectors looks like a label of LVM2."""
    return bool(_find_labels(source))


def read_label(source: BlockSource) -> PhysicalVolume:
    """Read the label of a volume for which :func:`has_label` holds.

    Raises:
        CorruptImageError: No label is whole, or an area is outside.
    """
    for sector in _find_labels(source):
        data = source.read_at(sector * SECTOR_BYTES, SECTOR_BYTES)
        _, place, crc, header, _ = _LABEL.unpack_from(data)
        if place == sector and crc == checksum(data[_CRC_FROM:]):
            return _read_header(source, data, header)
    raise CorruptImageError(
        "LVM2: no label of the physical volume is whole; repair it with "
        "pvck or pvcreate --restorefile"
    )


def _find_labels(source: BlockSource) -> list[int]:
    found = []
    for sector in range(LABEL_SECTORS):
        if source.size_bytes < (sector + 1) * SECTOR_BYTES:
            break
        data = source.read_at(sector * SECTOR_BYTES, _LABEL.size)
        if data.startswith(_LABEL_ID) and data.endswith(_LABEL_TYPE):
            found.append(sector)
    return found


def _read_header(source: BlockSource, data: bytes, at: int) -> PhysicalVolume:
    """Read the header: identity, data areas, then metadata areas."""
    try:
        identity, _ = _PV.unpack_from(data, at)
        _, behind = _read_areas(data, at + _PV.size)
        areas, behind = _read_areas(data, behind)
        _, flags = _EXTENSION.unpack_from(data, behind)
        name = identity.decode("ascii")
    except (struct.error, UnicodeDecodeError) as err:
        raise CorruptImageError(
            "LVM2: the label's lists do not end inside it; repair it with pvck"
        ) from err
    for area in areas:
        require_inside(source.size_bytes, *area)
    # A volume without any area is only made to join a group.
    is_used = bool(flags & _EXTENSION_USED) or not areas
    return PhysicalVolume(name, tuple(areas), is_used)


def _read_areas(data: bytes, at: int) -> tuple[list[Area], int]:
    """Read a list that ends in zeros; the sector bounds its length."""
    areas: list[Area] = []
    while True:
        area = Area(*_AREA.unpack_from(data, at))
        at += _AREA.size
        if area.offset == 0:
            return areas, at
        areas.append(area)


def read_group(source: BlockSource, pv: PhysicalVolume) -> GroupText | None:
    """Read the newest text of the group that a physical volume is in.

    Returns:
        ``None`` if no area holds a text.

    Raises:
        CorruptImageError: No metadata area is whole.
        LimitExceededError: A text is beyond all reason.
    """
    notes: list[str] = []
    groups: list[Section] = []
    for area in pv.areas:
        try:
            text = _read_text(source, area)
            if text is not None:
                groups.append(_read_root(text))
        except CorruptImageError as err:
            notes.append(str(err))
    if groups:
        newest = max(groups, key=lambda group: number(group, "seqno"))
        return GroupText(newest, tuple(notes))
    if notes:
        raise CorruptImageError(notes[0])
    return None


def _read_text(source: BlockSource, area: Area) -> str | None:
    """Return the committed text of an area, if it holds one."""
    if area.length < HEADER_BYTES:
        raise _wrong(area, "is too short")
    header = source.read_at(area.offset, HEADER_BYTES)
    crc, magic, version, start, size = _MDA.unpack_from(header)
    if magic != _MDA_MAGIC or crc != checksum(header[4:]):
        raise _wrong(area, "has no whole header")
    if (version, start, size) != (1, *area):
        raise _wrong(area, "is described as another one")
    # The first location is the committed text, the second one in the making.
    at, length, crc, _ = _LOCATION.unpack_from(header, _MDA.size)
    if at == 0:
        return None
    limits.require_limit(
        length, limits.MAX_LVM_TEXT_BYTES, "LVM2: the length of the metadata"
    )
    data = _read_ring(source, area, at, length)
    if checksum(data) != crc:
        raise _wrong(area, "holds a text with a wrong checksum")
    try:
        return data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as err:
        raise _wrong(area, "holds what is no text") from err


def _read_ring(source: BlockSource, area: Area, at: int, length: int) -> bytes:
    """Read a text that may go on behind the header of its area."""
    if not HEADER_BYTES <= at < area.length:
        raise _wrong(area, f"has its text at {at}")
    if length > area.length - HEADER_BYTES:
        raise _wrong(area, f"is too short for a text of {length} bytes")
    first = min(length, area.length - at)
    return source.read_at(area.offset + at, first) + source.read_at(
        area.offset + HEADER_BYTES, length - first
    )


def _read_root(text: str) -> Section:
    """Return the group's section of a whole text."""
    root = parse_text(text)
    groups = [value for value in root.values() if isinstance(value, dict)]
    kind, version = string(root, "contents"), number(root, "version")
    if kind != "Text Format Volume Group" or version != 1 or len(groups) != 1:
        raise CorruptImageError(
            f"LVM2: {kind[:32]!r} of version {version} with {len(groups)} "
            "groups is no description of one; restore it with vgcfgrestore"
        )
    number(groups[0], "seqno")
    return groups[0]


def _wrong(area: Area, what: str) -> CorruptImageError:
    return CorruptImageError(
        f"LVM2: the metadata area at byte {area.offset} {what}; repair it "
        "with vgck --updatemetadata or vgcfgrestore"
    )
