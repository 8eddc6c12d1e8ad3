"""Run the command line as people do: a process of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pathlib

PROGRAM = [sys.executable, "-m", "vmsec.cmd.vmsec"]
SECONDS = 120


def run_vmsec(
    *arguments: str | os.PathLike[str],
    stdin: bytes | None = None,
    cwd: pathlib.Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run ``vmsec`` with pipes for its output."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=SECONDS,
        cwd=cwd,
        check=False,
    )


def vmsec_json(*arguments: str | os.PathLike[str]) -> Any:
    """Run ``vmsec ... -f json``, which must succeed; return what it says."""
    done = run_vmsec(*arguments, "-f", "json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def require_one_line(
    done: subprocess.CompletedProcess[bytes], status: int
) -> str:
    """Check that a command failed as an error must; return its line."""
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert done.stdout == b""
    assert text.startswith("vmsec: "), text
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text


def start_vmsec(*arguments: str | os.PathLike[str]) -> subprocess.Popen[bytes]:
    """Start ``vmsec`` and return at once.

    Ctrl-C is heard even if who runs the tests ignores it (a background job).
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", *PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_on_terminal(*arguments: str | os.PathLike[str]) -> tuple[int, bytes]:
    """Run ``vmsec`` with a terminal as standard error; return what it got."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side was closed
                break
            if not piece:
                break
            seen += piece
        os.close(ours)
        return process.wait(SECONDS), seen
