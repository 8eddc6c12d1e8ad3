"""Run a daemon as a process of its own, in a directory of its own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Self

READY = "is ready"
SECONDS = 90


class DaemonUnderTest:
    """``vmsec-allinone``, or another daemon, until the block ends.

    Args:
        directory: Holds configuration, state, sockets and the log.
        name: The module of :mod:`vmsec.cmd` to run.
        extra: More lines of configuration.
    """

    def __init__(
        self, directory: pathlib.Path, name: str = "allinone", extra: str = ""
    ) -> None:
        self.directory, self.name = directory, name
        self.socket = directory / "api.sock"
        self.log = directory / "log"
        self.config = directory / "vmsec.conf"
        self.config.write_text(
            f"[DEFAULT]\nstate_path = {directory}/state\nhost = testnode\n"
            f"[api]\nsocket = {self.socket}\n"
            f"[agent]\nsocket = {directory}/agent.sock\n"
            f"libvirt_uri = qemu+unix:///system?socket={directory}/none\n"
            f"{extra}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once started."""
        assert self._process is not None
        return self._process

    def launch(self) -> subprocess.Popen[bytes]:
        """Start a copy and return at once; standard error is a pipe."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", f"vmsec.cmd.{self.name}"),
                *("--config-file", os.fspath(self.config)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"vmsec.cmd.{self.name}"),
                    *("--config-file", os.fspath(self.config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + SECONDS
        while READY not in self.log.read_text()[begin:]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(SECONDS)

    def relatives(self) -> list[str]:
        """Return the command lines of processes that use its directory."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(self.directory) in line:
                found.append(line)
        return found
