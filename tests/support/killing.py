"""Run a piece of work in a process of its own and kill it at some instant."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from typing import TYPE_CHECKING

from vmsec.durable import write_durable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class DirectoryStore:
    """A manifest store that other processes see: every blob in a file."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory

    def save(self, blob: bytes) -> None:
        number = len(self._files())
        write_durable(self._directory / f"{number:06}", blob)

    def candidates(self) -> list[bytes]:
        return [path.read_bytes() for path in reversed(self._files())]

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9]*"))


def start(work: Callable[[], object], temporary: Path) -> int:
    """Begin the work in a child process; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        tempfile.tempdir = str(temporary)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def kill(child: int) -> bool:
    """Kill a child without warning; return whether it had ended well."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


def seconds(work: Callable[[], object], temporary: Path) -> float:
    """How long the work takes undisturbed, in a child."""
    begin = time.monotonic()
    _, status = os.waitpid(start(work, temporary), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.monotonic() - begin


def wait_for(path: Path, limit: float) -> None:
    """Wait until a file is there, or the time is over."""
    end = time.monotonic() + limit
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.0002)
