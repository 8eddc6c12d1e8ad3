"""Draw a survey as text: coloured cells on a terminal, letters in a pipe.

The letters are the same in both, so that what is copied from a terminal, or
seen without its colours (``NO_COLOR``), says as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from vmsec.cli.picture import caption
from vmsec.cli.picture.style import LOOKS, amount, ink_on, percent
from vmsec.sealing.survey import Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.sealing.survey import Kind
    from vmsec.sealing.surveyor import Survey

ROWS = 24
_GUTTER, _FEWEST, _MOST = 10, 8, 128


class TextSheet:
    """Where a map is written to as text.

    Args:
        stream: Standard output. If it is no terminal there are no colours,
            and its width is 80 or what ``COLUMNS`` says.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        room = self._console.width - _GUTTER
        fitting = 1 << max(room, 1).bit_length() - 1
        self.columns = min(max(fitting, _FEWEST), _MOST)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def max_cells(self) -> int:
        """How many cells there is room for."""
        return self.columns * ROWS

    def write(self, survey: Survey) -> None:
        """Write a survey of at most :attr:`max_cells` cells."""
        self._say(caption.title(survey), "bold")
        for line in caption.facts(survey):
            self._say(line)
        self._say("")
        for part in sorted(survey.partitions, key=lambda part: part.offset):
            self._say(f"{part.number:>3}  {caption.partition(part)}")
        if survey.partitions:
            self._say("")
        for row in _rows(survey, self.columns):
            self._console.print(row)
        self._say("")
        self._say(caption.scale(survey, self.columns))
        self._say("")
        for kind, total in survey.chart.totals.items():
            share = percent(total.size, survey.disk_bytes)
            entry = Text.assemble(
                " ",
                _letter(kind),
                f" {kind:<18}{amount(total.size):>11}{share:>9}  ",
                LOOKS[kind].words,
            )
            entry.truncate(self._console.width)
            self._console.print(entry)
        for note in ["", *caption.notes(survey)]:
            self._say(note)

    def _say(self, text: str, style: str = "") -> None:
        """Write a line, with ``?`` for what the stream cannot hold."""
        known = text.encode(self._encoding, "replace").decode(self._encoding)
        self._console.print(Text(known, style=style))


def _rows(survey: Survey, columns: int) -> Iterator[Text]:
    cells = survey.chart.cells
    for first in range(0, len(cells), columns):
        row = Text(f"{amount(cells[first].offset):>{_GUTTER - 2}} ")
        for cell in cells[first : first + columns]:
            row.append_text(_letter(cell.kind))
        yield row


def _letter(kind: Kind) -> Text:
    """Return the letter of a kind in its colours."""
    look = LOOKS[kind]
    if kind is Rest.ZERO:
        return Text(look.letter, style="dim")
    style = f"{ink_on(look.colour)} on {look.colour.value}"
    return Text(look.letter, style=style)
