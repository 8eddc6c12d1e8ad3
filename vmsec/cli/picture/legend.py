"""The legend of a picture: what each letter, colour and pattern means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.cli.picture.shape import Box, Label
from vmsec.cli.picture.style import (
    INK,
    LINE,
    LOOKS,
    QUIET,
    amount,
    ink_on,
    percent,
    shaded,
)
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    from vmsec.sealing.survey import Kind, Total
    from vmsec.sealing.surveyor import Survey

_LEFT, _COLUMN, _HEIGHT, _SWATCH = 40, 580, 26, 18
FILLED = (
    "Full colour: half of the cell or more is metadata. Frame: less; the "
    "inside is grey if it holds data too."
)


def words(survey: Survey) -> list[str]:
    """Return a sentence for each kind, for who cannot see the picture."""
    return [
        f"{kind}: {amount(total.size)} in {total.ranges} places."
        for kind, total in survey.chart.totals.items()
    ]


def lay_legend(survey: Survey, top: int) -> tuple[list[Box | Label], int]:
    """Return the shapes of the legend in two columns, and its height."""
    totals = list(survey.chart.totals.items())
    half = -(-len(totals) // 2)
    shapes: list[Box | Label] = []
    height = half * _HEIGHT + 10
    if any(isinstance(kind, MetadataClass) for kind, _ in totals):
        shapes.append(Label(_LEFT, top + 13, FILLED, 13, QUIET))
        top += _HEIGHT + 4
        height += _HEIGHT + 4
    for number, (kind, total) in enumerate(totals):
        column, row = divmod(number, half)
        place = _LEFT + column * _COLUMN, top + row * _HEIGHT
        shapes += _entry(place, kind, total, survey.disk_bytes)
    return shapes, height


def _entry(
    place: tuple[int, int], kind: Kind, total: Total, disk_bytes: int
) -> list[Box | Label]:
    """Return one line: swatch, name, meaning, bytes, share."""
    x, y = place
    look = LOOKS[kind]
    known = isinstance(kind, MetadataClass)
    edge = shaded(look.colour if known else LINE)
    square = x, y, _SWATCH, _SWATCH
    shapes: list[Box | Label] = [
        Box(*square, look.colour, edge, 1, look.pattern)
    ]
    if known:
        ink = ink_on(look.colour)
        middle = x + _SWATCH // 2
        letter = Label(middle, y + 13, look.letter, 12, ink, "middle")
        shapes.append(letter)
    line = y + 14
    share = percent(total.size, disk_bytes)
    return [
        *shapes,
        Label(x + 28, line, str(kind), 14, INK),
        Label(x + 162, line, look.words, 13, QUIET),
        Label(x + 460, line, amount(total.size), 14, INK, "end"),
        Label(x + 540, line, share, 13, QUIET, "end"),
    ]
