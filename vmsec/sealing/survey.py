"""From what is known of a disk to ranges that cover it, and to cells.

Pure: ranges go in and come out one after the other, and a chart has a bounded
number of cells and of ranges, however large the disk is.

Invariant:
    What :func:`fill` yields covers its interval exactly once, in order,
    whatever goes in. So every byte of a disk is counted once.

Units:
    Offsets and lengths are bytes from the start of the guest-visible disk.
"""

from __future__ import annotations

import bisect
import enum
from typing import TYPE_CHECKING, NamedTuple

from vmsec.ondisk.extent import MetadataClass
from vmsec.units import SEAL_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_RANGES = 1 << 16
"""A chart keeps so many ranges (about 10 MiB of memory) and counts the rest:
a hostile sparse file has one for every block."""


class Rest(enum.StrEnum):
    """What is not sealed, or of which nobody can tell without the key."""

    UNKNOWN = "unknown"
    ENCRYPTED = "encrypted"
    READABLE = "readable"
    ZERO = "zero"


Kind = MetadataClass | Rest

KINDS: tuple[Kind, ...] = (*MetadataClass, *Rest)
"""The most sensitive first: a cell shows the first that is in it."""

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


class Range(NamedTuple):
    """A run of bytes of one kind."""

    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        """First byte behind the range."""
        return self.offset + self.length


if TYPE_CHECKING:
    Below = Callable[[int, int], Iterable[Range]]


def zeros(offset: int, length: int) -> Iterator[Range]:
    """Yield the one range that says: zero."""
    yield Range(offset, length, Rest.ZERO)


def fill(
    top: Iterable[Range], offset: int, length: int, below: Below
) -> Iterator[Range]:
    """Cover an interval with ranges, and its gaps with what lies below.

    Args:
        top: Sorted by offset. What lies outside, or on what came before, is
            cut off.
        offset: Where the interval begins.
        length: How long it is.
        below: Covers each gap (offset, length) in turn.

    Yields:
        Ranges in order, without gap or overlap if ``below`` leaves none.
    """
    place, end = offset, offset + length
    for item in top:
        start, stop = max(item.offset, place), min(item.end, end)
        if stop <= start:
            continue
        if start > place:
            yield from below(place, start - place)
        yield Range(start, stop - start, item.kind)
        place = stop
    if place < end:
        yield from below(place, end - place)


def touching(
    ranges: Sequence[Range], offset: int, length: int
) -> Iterator[Range]:
    """Yield those of many sorted, disjoint ranges that an interval meets."""
    first = bisect.bisect_right(ranges, offset, key=lambda item: item.offset)
    for number in range(max(first - 1, 0), len(ranges)):
        item = ranges[number]
        if item.offset >= offset + length:
            return
        if item.end > offset:
            yield item


def joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Join ranges of one kind that touch; empty ones go."""
    last: Range | None = None
    for item in ranges:
        if not item.length:
            continue
        if last and last.end == item.offset and last.kind == item.kind:
            length = last.length + item.length
            last = Range(last.offset, length, last.kind)
            continue
        if last:
            yield last
        last = item
    if last:
        yield last


class Total(NamedTuple):
    """How often a kind is on the disk, and how much of it."""

    ranges: int
    size: int


class Cell(NamedTuple):
    """One tile of the picture: the most sensitive kind in so many bytes.

    ``sealed`` and ``readable`` say how many of its bytes are metadata that is
    (or would be) sealed, and how many anybody can read.
    """

    offset: int
    length: int
    kind: Kind
    sealed: int
    readable: int


class Chart(NamedTuple):
    """A disk, drawn.

    ``ranges`` are the first :data:`MAX_RANGES` of all; ``omitted`` are more.
    ``totals`` are in the order of :data:`KINDS`.
    """

    cell_bytes: int
    cells: tuple[Cell, ...]
    totals: dict[Kind, Total]
    ranges: tuple[Range, ...]
    omitted: int


def cell_size(disk_bytes: int, max_cells: int) -> int:
    """Return the power of two (a block at least) of which few are enough."""
    least = -(-disk_bytes // max_cells)
    return max(SEAL_BLOCK_BYTES, 1 << max(least - 1, 0).bit_length())


def draw(ranges: Iterable[Range], disk_bytes: int, max_cells: int) -> Chart:
    """Count ranges and put them into cells.

    Args:
        ranges: In order; they cover the disk exactly once.
        disk_bytes: The size of the disk.
        max_cells: So many cells or fewer; 1 or more.
    """
    canvas = _Canvas(disk_bytes, cell_size(disk_bytes, max_cells))
    counts = {kind: [0, 0] for kind in KINDS}
    kept: list[Range] = []
    omitted = 0
    for item in joined(ranges):
        canvas.paint(item)
        counts[item.kind][0] += 1
        counts[item.kind][1] += item.length
        if len(kept) < MAX_RANGES:
            kept.append(item)
        else:
            omitted += 1
    totals = {k: Total(*count) for k, count in counts.items() if count[0]}
    cells = tuple(canvas.cells())
    return Chart(canvas.cell_bytes, cells, totals, tuple(kept), omitted)


class _Canvas:
    """Cells that are being painted."""

    def __init__(self, disk_bytes: int, cell_bytes: int) -> None:
        self.cell_bytes, self._size = cell_bytes, disk_bytes
        count = -(-disk_bytes // cell_bytes)
        self._rank = [len(KINDS) - 1] * count
        self._sealed, self._readable = [0] * count, [0] * count

    def paint(self, item: Range) -> None:
        """Put a range into every cell that it meets."""
        step, rank = self.cell_bytes, _RANK[item.kind]
        if isinstance(item.kind, MetadataClass):
            amounts = self._sealed
        else:
            amounts = self._readable
        counted = item.kind is Rest.READABLE or amounts is self._sealed
        for number in range(item.offset // step, -(-item.end // step)):
            self._rank[number] = min(self._rank[number], rank)
            if counted:
                start = max(item.offset, number * step)
                stop = min(item.end, (number + 1) * step)
                amounts[number] += stop - start

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, in order."""
        columns = zip(self._rank, self._sealed, self._readable, strict=True)
        for number, (rank, sealed, readable) in enumerate(columns):
            offset = number * self.cell_bytes
            length = min(self.cell_bytes, self._size - offset)
            yield Cell(offset, length, KINDS[rank], sealed, readable)
