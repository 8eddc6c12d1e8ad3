"""The words of a picture: its title, its scale, its notes.

All that comes from outside is made printable here, once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmsec.cli.picture.style import amount, percent, printable

if TYPE_CHECKING:
    from vmsec.sealing.model import PartitionReport
    from vmsec.sealing.surveyor import Survey

_LABELS = {"gpt": "GPT", "msdos": "MBR", "none": "no partition table"}


def title(survey: Survey) -> str:
    """Name the disk."""
    return printable(Path(survey.name).name)


def facts(survey: Survey) -> list[str]:
    """Say in one or two lines what disk this is and how much is sealed."""
    size = amount(survey.disk_bytes)
    label = _LABELS.get(survey.label, survey.label)
    state = f"{survey.state.capitalize()} disk"
    kind = ", ".join(word for word in (state, label) if word)
    lines = [f"{kind}, {size}, level {survey.level}: {_sealed(survey)}"]
    if survey.context:
        context = survey.context
        lines.append(
            f"VM {context.vm}, disk {context.disk}, generation "
            f"{context.generation}, key version {context.key_version}"
        )
    return lines


def _sealed(survey: Survey) -> str:
    if survey.sealed_bytes is None:
        return "how much is sealed only the key can tell"
    verb = "are" if survey.state == "sealed" else "would be"
    share = percent(survey.sealed_bytes, survey.disk_bytes)
    return f"{amount(survey.sealed_bytes)} ({share}) {verb} sealed"


def scale(survey: Survey, columns: int) -> str:
    """Say what a cell and a row are."""
    cell = survey.chart.cell_bytes
    return (
        f"One cell is {amount(cell)}, one row "
        f"{amount(cell * columns)}; a cell shows the most sensitive "
        "class in it."
    )


def partition(part: PartitionReport) -> str:
    """Say of a partition what it is and where."""
    what = part.filesystem or part.status
    note = f" ({part.note})" if part.note else ""
    place = f"{amount(part.length)} at {amount(part.offset)}"
    return printable(f"{what}, {place}{note}")


def notes(survey: Survey) -> list[str]:
    """Return the footnotes, as sentences."""
    return [printable(f"{n[:1].upper()}{n[1:]}.") for n in survey.notes]
