"""Lay a survey out: heading, partitions, cells, legend, notes.

The same scene becomes SVG and PNG. It is 1,200 pixels wide and as high as it
needs to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.cli.picture import caption, legend
from vmsec.cli.picture.shape import Box, Label, Scene, shorten, wrapped
from vmsec.cli.picture.style import (
    INK,
    LINE,
    LOOKS,
    PAPER,
    QUIET,
    Colour,
    amount,
    ink_on,
    shaded,
)
from vmsec.ondisk.extent import MetadataClass
from vmsec.sealing.survey import Rest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmsec.sealing.model import PartitionReport
    from vmsec.sealing.survey import Cell
    from vmsec.sealing.surveyor import Survey

WIDTH, MARGIN = 1200, 40
COLUMNS, ROWS = 64, 32
MAX_CELLS = COLUMNS * ROWS
"""Powers of two, so that a row of the picture begins at a round offset."""

_CELL, _GAP, _ROW = 15, 1, 21
_GRID_X = WIDTH - MARGIN - COLUMNS * (_CELL + _GAP) + _GAP
_BAR = 30
_TRACKS = ("#4F6275", "#A3AFBB")
_MAX_LISTED = 8
"""Partitions that are listed; the bar shows all."""


class _Sheet:
    """Shapes, and how far down the sheet is used."""

    def __init__(self) -> None:
        self.shapes: list[Box | Label] = []
        self.y = MARGIN

    def text(
        self, text: str, size: int, fill: str, *, x: int = MARGIN
    ) -> None:
        """Write a line and go down by it."""
        self.y += size
        text = shorten(text, size, WIDTH - MARGIN - x)
        self.shapes.append(Label(x, self.y, text, size, fill))
        self.y += size // 2

    def add(self, shapes: Iterator[Box | Label], height: int) -> None:
        """Add shapes that take so much height."""
        self.shapes += shapes
        self.y += height


def lay_out(survey: Survey) -> Scene:
    """Return the picture of a survey of at most :data:`MAX_CELLS` cells."""
    sheet = _Sheet()
    name, facts = caption.title(survey), caption.facts(survey)
    sheet.text(name, 26, INK)
    for line in facts:
        sheet.text(line, 15, QUIET)
    sheet.y += 14
    _partitions(sheet, survey)
    sheet.text(caption.scale(survey, COLUMNS), 13, QUIET)
    sheet.y += 8
    rows = -(-len(survey.chart.cells) // COLUMNS)
    sheet.add(_cells(survey, sheet.y), rows * _ROW + 12)
    shapes, height = legend.lay_legend(survey, sheet.y)
    sheet.add(iter(shapes), height)
    for note in caption.notes(survey):
        for line in wrapped(note, 12, WIDTH - 2 * MARGIN):
            sheet.text(line, 12, QUIET)
    paper = Box(0, 0, WIDTH, sheet.y + MARGIN // 2, PAPER)
    return Scene(
        WIDTH,
        paper.height,
        f"Map of {name}",
        " ".join([*facts, *legend.words(survey)]),
        (paper, *sheet.shapes),
    )


def _partitions(sheet: _Sheet, survey: Survey) -> None:
    """Add the bar of partitions, to scale, and their list."""
    parts = sorted(survey.partitions, key=lambda part: part.offset)
    if not parts:
        return
    sheet.add(_bar(parts, survey.disk_bytes, sheet.y), _BAR + 6)
    for order, part in enumerate(parts[:_MAX_LISTED]):
        swatch = Box(MARGIN, sheet.y + 4, 12, 12, _TRACKS[order % 2])
        sheet.shapes.append(swatch)
        text = f"{part.number}  {caption.partition(part)}"
        sheet.text(text, 13, INK, x=MARGIN + 22)
    if len(parts) > _MAX_LISTED:
        sheet.text(f"and {len(parts) - _MAX_LISTED} more", 13, QUIET)
    sheet.y += 14


def _bar(
    parts: Sequence[PartitionReport], disk_bytes: int, y: int
) -> Iterator[Box | Label]:
    room = WIDTH - 2 * MARGIN
    yield Box(MARGIN, y, room, _BAR, Colour.NOTHING, LINE, 1)
    for order, part in enumerate(parts):
        left = MARGIN + part.offset * room // disk_bytes
        right = MARGIN + (part.offset + part.length) * room // disk_bytes
        width = max(right - left, 2)
        colour = _TRACKS[order % 2]
        tip = f"partition {part.number}: {caption.partition(part)}"
        yield Box(left, y, width, _BAR, colour, tip=tip)
        text = f"{part.number}  {part.filesystem or part.status}"
        if shorten(text, 13, width - 12) != text:
            text = shorten(str(part.number), 13, width - 12)
        yield Label(left + 8, y + 20, text, 13, ink_on(colour))


def _cells(survey: Survey, top: int) -> Iterator[Box | Label]:
    """Yield the cells, the offset of each row, and the tracks below."""
    parts = sorted(survey.partitions, key=lambda part: part.offset)
    for number, cell in enumerate(survey.chart.cells):
        row, column = divmod(number, COLUMNS)
        x, y = _GRID_X + column * (_CELL + _GAP), top + row * _ROW
        if not column:
            text = amount(cell.offset)
            yield Label(_GRID_X - 10, y + 12, text, 12, QUIET, "end")
        yield from draw_cell(cell, x, y)
        order = _partition_of(parts, cell)
        if order is not None:
            colour = _TRACKS[order % 2]
            yield Box(x, y + _CELL + 1, _CELL + _GAP, 2, colour)


def _partition_of(parts: Sequence[PartitionReport], cell: Cell) -> int | None:
    """Return which partition a cell lies in; of two, the inner one."""
    found = None
    for order, part in enumerate(parts):
        if part.offset >= cell.offset + cell.length:
            break
        if part.offset + part.length > cell.offset:
            found = order
    return found


def draw_cell(cell: Cell, x: int, y: int) -> Iterator[Box | Label]:
    """Yield a cell: full colour if half of it is sealed, else a frame."""
    look, square = LOOKS[cell.kind], (x, y, _CELL, _CELL)
    if not isinstance(cell.kind, MetadataClass):
        frame = LINE if cell.kind is not Rest.READABLE else ""
        yield Box(
            *(*square, look.colour, frame, int(bool(frame))), look.pattern
        )
        return
    tip = (
        f"{amount(cell.offset)}: {cell.kind}, "
        f"{amount(cell.sealed)} of {amount(cell.length)} sealed"
    )
    if 2 * cell.sealed >= cell.length:
        ground, ink = look.colour, ink_on(look.colour)
        yield Box(*square, ground, shaded(look.colour), 1, tip=tip)
    else:
        ground = Colour.DATA if cell.readable else Colour.NOTHING
        yield Box(*square, look.colour, shaded(look.colour), 1, tip=tip)
        yield Box(x + 3, y + 3, _CELL - 6, _CELL - 6, ground)
        ink = INK
    middle = x + _CELL // 2
    yield Label(middle, y + 11, look.letter, 11, ink, "middle")
