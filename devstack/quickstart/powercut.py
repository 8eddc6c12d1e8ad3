"""Cut the power at the worst moment: while the journal is being played."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from devstack.quickstart.site import CommandError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

JOURNAL_SUFFIX = ".vmsec-journal"
WATCH_SECONDS = 60


def journal_of(image: pathlib.Path) -> pathlib.Path:
    """Return where the seal journal of an image file appears."""
    return image.with_name(image.name + JOURNAL_SUFFIX)


def cut_in_the_middle(
    image: pathlib.Path,
    work: Callable[[], object],
    cut: Callable[[], None],
) -> bool:
    """Run some work and cut the power as the image begins to change.

    The journal is there from the moment it is durable until the image is
    synced, a few milliseconds; so the watcher looks without a pause.

    Args:
        image: The image that the work seals.
        work: Seals it; it fails when the power goes.
        cut: Cuts the power.

    Returns:
        Whether the journal is still there: the cut came in time.
    """
    journal = journal_of(image)
    before = _boot_sector(image)
    worker = threading.Thread(target=_ignore_failure, args=(work,))
    worker.start()
    deadline = time.monotonic() + WATCH_SECONDS
    while worker.is_alive() and time.monotonic() < deadline:
        if journal.exists() and _boot_sector(image) != before:
            break
    cut()
    worker.join()
    return journal.exists()


def _boot_sector(image: pathlib.Path) -> bytes:
    """Return the first 512 bytes, the first that a seal replaces."""
    with image.open("rb") as file:
        return file.read(512)


def _ignore_failure(work: Callable[[], object]) -> None:
    """Run the work; that it fails without power is what is wanted."""
    with contextlib.suppress(CommandError):
        work()
