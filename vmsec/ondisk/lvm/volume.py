"""Logical volumes: where they lie, and how to read one as a whole.

Units:
    Bytes, from the start of the logical volume or (``legs``, and what is
    translated) of the physical one.

Source:
    LVM2 ``lib/format_text/import_vsn1.c``; ``man 7 lvmraid``, ``lvmthin``.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError
from vmsec.ondisk.lvm.label import SECTOR_BYTES
from vmsec.ondisk.lvm.text import Section, items, number, section, string
from vmsec.ondisk.source import require_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.source import BlockSource

_LINEAR = frozenset({"striped", "linear"})


class Leg(NamedTuple):
    """A run of a physical volume that holds a stripe of a segment."""

    offset: int
    length: int


class Segment(NamedTuple):
    """A run of a logical volume, all of it on one physical volume.

    With one leg it is linear; with more, ``stripe_bytes`` go to each in
    turn.
    """

    start: int
    length: int
    legs: tuple[Leg, ...]
    stripe_bytes: int

    @property
    def end(self) -> int:
        """First byte behind the segment."""
        return self.start + self.length

    def pieces(self, at: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where a run of the segment lies, as offsets and lengths.

        ``at`` counts from the start of the segment.
        """
        if len(self.legs) == 1:
            yield self.legs[0].offset + at, length
            return
        while length:
            stripe, inside = divmod(at, self.stripe_bytes)
            row, column = divmod(stripe, len(self.legs))
            step = min(self.stripe_bytes - inside, length)
            start = self.legs[column].offset + row * self.stripe_bytes
            yield start + inside, step
            at, length = at + step, length - step


class LogicalVolume(NamedTuple):
    """A volume of the group as far as it lies on this physical volume.

    ``segments`` are complete only if ``is_whole``; ``legs`` are all runs
    here, also of segments that have others elsewhere; ``kinds`` are the types
    of segments; ``metadata_of`` names the volume that a pool keeps its
    mapping in.
    """

    name: str
    is_visible: bool
    is_whole: bool
    segments: tuple[Segment, ...]
    legs: tuple[Leg, ...]
    kinds: tuple[str, ...]
    metadata_of: tuple[str, ...]


class MappedSource:
    """Reads a whole logical volume: a source over its segments.

    Args:
        source: The physical volume.
        segments: In order and without gaps.
    """

    def __init__(
        self, source: BlockSource, segments: tuple[Segment, ...]
    ) -> None:
        self._source, self._segments = source, segments
        self._starts = [segment.start for segment in segments]

    @property
    def size_bytes(self) -> int:
        """Length of the logical volume in bytes."""
        return self._segments[-1].end

    @property
    def sector_bytes(self) -> int:
        """Logical sector size of the underlying source in bytes."""
        return self._source.sector_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes; see :class:`BlockSource`."""
        return b"".join(
            self._source.read_at(*piece)
            for piece in self.pieces(offset, length)
        )

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where a run lies on the physical volume.

        Raises:
            CorruptImageError: It is not inside the logical volume.
        """
        require_inside(self.size_bytes, offset, length)
        index = bisect_right(self._starts, offset) - 1
        while length:
            segment = self._segments[index]
            step = min(segment.end - offset, length)
            yield from segment.pieces(offset - segment.start, step)
            offset, length, index = offset + step, length - step, index + 1


class GroupReader:
    """Reads the logical volumes of a group as one physical volume has them.

    Args:
        group: The group's section.
        identity: The physical volume's, from its label.

    Raises:
        CorruptImageError: The group does not know the physical volume.
    """

    def __init__(self, group: Section, identity: str) -> None:
        self._group = group
        self._extent_bytes = number(group, "extent_size") * SECTOR_BYTES
        volumes = section(group, "physical_volumes")
        names = [
            name
            for name in volumes
            if string(section(volumes, name), "id").replace("-", "")
            == identity
        ]
        if len(names) != 1 or not self._extent_bytes:
            raise CorruptImageError(
                f"LVM2: the group names this physical volume {len(names)} "
                f"times and has extents of {self._extent_bytes} bytes; "
                "repair it with vgck or vgcfgrestore"
            )
        self._name = names[0]
        first = number(section(volumes, self._name), "pe_start")
        self._first_byte = first * SECTOR_BYTES

    def volumes(self) -> Iterator[LogicalVolume]:
        """Yield the logical volumes in the order of the text.

        Raises:
            CorruptImageError: A volume has gaps or senseless numbers.
        """
        if "logical_volumes" not in self._group:
            return
        found = section(self._group, "logical_volumes")
        for name in found:
            yield self._volume(name, section(found, name))

    def _volume(self, name: str, text: Section) -> LogicalVolume:
        count = number(text, "segment_count")
        keys = [key for key in text if key.startswith("segment")]
        if len(keys) != count + 1:
            raise _wrong(name, f"has {len(keys) - 1} segments of {count}")
        parts = [section(text, f"segment{n + 1}") for n in range(count)]
        kinds = [string(part, "type") for part in parts]
        read = [
            self._segment(name, part, kind)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        whole = [segment for segment, _ in read if segment is not None]
        is_whole = len(whole) == count > 0
        if is_whole:
            _require_no_gaps(name, whole)
        return LogicalVolume(
            name,
            "VISIBLE" in items(text, "status"),
            is_whole,
            tuple(whole),
            tuple(leg for _, legs in read for leg in legs),
            tuple(dict.fromkeys(kinds)),
            tuple(
                string(part, "metadata")
                for part in parts
                if "metadata" in part
            ),
        )

    def _segment(
        self, name: str, text: Section, kind: str
    ) -> tuple[Segment | None, list[Leg]]:
        """Return a segment if it is wholly here, and its runs here."""
        if kind not in _LINEAR:
            return None, []
        start, extents = (
            number(text, "start_extent"),
            number(text, "extent_count"),
        )
        count = number(text, "stripe_count")
        places = items(text, "stripes")
        stripe = number(text, "stripe_size") if count > 1 else 1
        if not 1 <= count <= extents or extents % count or not stripe:
            raise _wrong(name, f"has {extents} extents in {count} stripes")
        if len(places) != 2 * count:
            raise _wrong(name, f"has {len(places)} words for {count} stripes")
        size = self._extent_bytes
        legs = [
            self._leg(name, place, extents // count)
            for owner, place in zip(places[::2], places[1::2], strict=True)
            if owner == self._name
        ]
        segment = Segment(
            start * size, extents * size, tuple(legs), stripe * SECTOR_BYTES
        )
        return segment if len(legs) == count else None, legs

    def _leg(self, name: str, first: str | int, extents: int) -> Leg:
        if not isinstance(first, int) or first < 0:
            raise _wrong(name, f"has a stripe at {first!r}")
        size = self._extent_bytes
        return Leg(self._first_byte + first * size, extents * size)


def _require_no_gaps(name: str, segments: list[Segment]) -> None:
    end = 0
    for segment in segments:
        if segment.start != end:
            raise _wrong(name, f"has a gap or an overlap at byte {end}")
        end = segment.end


def _wrong(name: str, what: str) -> CorruptImageError:
    return CorruptImageError(
        f"LVM2: volume {name[:128]} {what}; repair it with vgck or "
        "vgcfgrestore"
    )
