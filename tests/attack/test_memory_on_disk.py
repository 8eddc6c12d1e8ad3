"""Keys in memory do not reach a disk by a core dump."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.tools import missing

if TYPE_CHECKING:
    from pathlib import Path

_CORES = 'ulimit -c unlimited; exec "$@"'


def _abort(command: list[str], where: Path, fifo: Path) -> bool:
    """Start what reads a FIFO and may dump core; abort it; whether it did."""
    words = ["env", "-C", str(where), "sh", "-c", _CORES, "sh", *command]
    child = os.posix_spawnp("env", words, os.environ)
    writer = _wait_for_reader(fifo)
    os.kill(child, signal.SIGABRT)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


def _wait_for_reader(fifo: Path) -> int:
    """Return a FIFO's end for writing when somebody reads from it."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)
    pytest.fail("nobody reads it")


def test_an_aborted_command_leaves_no_core(tmp_path: Path) -> None:
    """Aborted as it reads its key."""
    ready, key = tmp_path / "ready", tmp_path / "key"
    os.mkfifo(ready)
    os.mkfifo(key)
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    reads = [sys.executable, "-c", f"open({str(ready)!r}).read()"]
    if not _abort(reads, tmp_path, ready):
        missing("cores", "this system dumps no core")
    words = [sys.executable, "-m", "vmsec.cmd.vmsec", "image", "seal"]
    words += [str(image), "--key-file", str(key)]
    assert not _abort(words, tmp_path, key)
