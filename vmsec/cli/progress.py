"""A progress bar for long work: on a terminal, and nowhere else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(
    title: str, stream: TextIO, *, quiet: bool
) -> Iterator[Callable[[int, int], None]]:
    """Show how far the work is while the block runs.

    Args:
        title: What is being done, for example ``"sealing disk.img"``.
        stream: Standard error.
        quiet: Show nothing, even on a terminal.

    Yields:
        What the work calls with (bytes done, bytes in all); it does nothing
        if ``stream`` is not a terminal.
    """
    if quiet or not stream.isatty():
        yield _ignore
        return
    # Imported here: a pipe has no use for it, and it costs 80 ms.
    from rich import console, progress

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TimeRemainingColumn(),
        console=console.Console(file=stream),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _ignore(_done: int, _total: int) -> None:
    """Show nothing."""
