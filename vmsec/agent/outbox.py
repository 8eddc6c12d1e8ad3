"""Reports to the KMC: kept durably, sent in order, again until received.

Stopping a VM never needs the KMC, so what it must know waits here while it
is away. Each report is one file, named by a number that only grows; a report
that the KMC refuses for good is logged and dropped, for it would block the
others for ever.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import TYPE_CHECKING

from vmsec import encoding
from vmsec.agent.state import read_limited
from vmsec.durable import remove_durable, write_durable
from vmsec.errors import RemoteRefusedError, SchemaError, VmsecError
from vmsec.keysync import wire
from vmsec.keysync.messages import DiskReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG = logging.getLogger(__name__)

MAX_REPORT_BYTES = 2 * wire.MAX_BLOB_BYTES
"""One blob of the limit as base64, and a few short fields."""

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 60.0
"""Pauses between two attempts; doubled from the first to the last."""


class Outbox:
    """A durable queue of reports with a thread that empties it.

    Args:
        directory: Where the reports wait; made if missing.
        send: Delivers one report or raises a ``VmsecError``.
    """

    def __init__(
        self, directory: Path, send: Callable[[DiskReport], None]
    ) -> None:
        self._directory, self._send = directory, send
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        waiting = self._numbers()
        self._next = waiting[-1] + 1 if waiting else 1
        self._thread = threading.Thread(
            target=self._run, name="outbox", daemon=True
        )

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was not sent stays for the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def put(self, report: DiskReport) -> None:
        """Keep a report durably and send it soon.

        Raises:
            ImageFullError: No space.
            ImageIOError: The directory cannot be written.
        """
        if len(report.manifest) > wire.MAX_BLOB_BYTES:
            LOG.warning(
                "disk %s: its manifest of %d bytes is too long for the KMC; "
                "the copies in the disk and on this node remain",
                report.disk,
                len(report.manifest),
            )
            report = dataclasses.replace(report, manifest=b"")
        data = encoding.encode(wire.encode(report, what="report"))
        with self._lock:
            number, self._next = self._next, self._next + 1
            write_durable(self._path(number), data)
        self._wake.set()

    def waiting(self) -> int:
        """Count the reports that the KMC has not got yet."""
        return len(self._numbers())

    def _run(self) -> None:
        """Send until told to stop."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            self._wake.clear()
            if self._send_all():
                pause = FIRST_PAUSE_SECONDS
                self._wake.wait()
            else:
                self._stopping.wait(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _send_all(self) -> bool:
        """Send what waits, in order; false where one must wait."""
        for number in self._numbers():
            if self._stopping.is_set() or not self._send_one(number):
                return False
        return True

    def _send_one(self, number: int) -> bool:
        """Send one report; false where it must be tried again."""
        path = self._path(number)
        try:
            report = self._load(path)
            if report is not None:
                self._send(report)
        except (RemoteRefusedError, SchemaError) as err:
            if err.retryable:
                return False
            LOG.error("%s: report dropped: %s", path, err)  # noqa: TRY400 - one line
        except VmsecError as err:
            LOG.warning("report %d waits: %s", number, err)
            return False
        remove_durable(path)
        return True

    def _load(self, path: Path) -> DiskReport | None:
        """Read a waiting report."""
        data = read_limited(path, MAX_REPORT_BYTES)
        if data is None:
            return None
        record = encoding.decode(data, what=str(path))
        return wire.decode(DiskReport, record, what=str(path))

    def _numbers(self) -> list[int]:
        """List what waits, in order."""
        names = (path.name for path in self._directory.iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, number: int) -> Path:
        """Return the file of a number."""
        return self._directory / str(number)
