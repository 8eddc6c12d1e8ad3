"""A cloud of one host: vmsec-allinone, a libvirtd with its hook, one guest.

All that it keeps is below one directory; its sockets are in a directory of
their own below /tmp, because the name of a socket is short (unix(7)).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Self

from tests.support.libvirt import PrivateLibvirt

PROGRAMS = pathlib.Path(sys.executable).parent
NODE = "vmsec-a"
START_SECONDS = 60
STOP_SECONDS = 20
COMMAND_SECONDS = 120
LOG_TAIL = 1000

SEALED_LINE = re.compile(r" sealed in (\d+) ms")
CONFIGURATION = """\
[DEFAULT]
state_path = {directory}/state
host = {node}
debug = false

[agent]
hook_directory = {directory}/hooks
socket = {sockets}/agent.sock
libvirt_uri = {uri}
reconcile_interval = 5

[api]
socket = {sockets}/api.sock
"""


class CommandError(Exception):
    """A vmsec command failed; the text is what it wrote."""


class Site:
    """The host; a context manager that leaves nothing running.

    Attributes:
        directory: Where images, state and logs are.
        libvirt: The private libvirtd, with the hook.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self._config = directory / "vmsec.conf"
        self._log = directory / "allinone.log"
        self._stack = contextlib.ExitStack()
        self._allinone: subprocess.Popen[bytes] | None = None
        self._sockets = pathlib.Path()
        self.libvirt: PrivateLibvirt

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        with self._stack:
            self._build()
            self._stack = self._stack.pop_all()
        return self

    def _build(self) -> None:
        """Sockets, hook, libvirtd; undone in the reverse order."""
        sockets = tempfile.TemporaryDirectory(prefix="vmsec-")
        self._sockets = pathlib.Path(self._stack.enter_context(sockets))
        hooks = self.directory / "hooks"
        hooks.mkdir()
        self._write_configuration("qemu:///system")
        self._run("hook", "install", "--config-file", str(self._config))
        libvirt = PrivateLibvirt(self._sockets / "libvirt", hooks=hooks)
        self.libvirt = self._stack.enter_context(libvirt)
        self._write_configuration(self.libvirt.uri)
        self._stack.callback(self.stop)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _write_configuration(self, uri: str) -> None:
        text = CONFIGURATION.format(
            directory=self.directory,
            node=NODE,
            sockets=self._sockets,
            uri=uri,
        )
        self._config.write_text(text)

    @property
    def command(self) -> str:
        """How to call vmsec by hand, for the reader."""
        return f"{PROGRAMS / 'vmsec'} --api-socket {self._sockets}/api.sock"

    def start(self) -> float:
        """Start vmsec-allinone; return the seconds until all is well.

        Raises:
            CommandError: It died, or ``vmsec doctor`` is not content.
        """
        begin = time.monotonic()
        with self._log.open("ab") as log:
            self._allinone = subprocess.Popen(
                [str(PROGRAMS / "vmsec-allinone"), "--config-file",
                 str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        while True:
            try:
                self.vmsec("doctor")
            except CommandError as error:
                self._require_alive(begin, str(error))
            else:
                return time.monotonic() - begin
            time.sleep(0.2)

    def _require_alive(self, begin: float, doctor: str) -> None:
        """Give up on a service that died or that stays ill."""
        dead = self._allinone is None or self._allinone.poll() is not None
        if dead or time.monotonic() - begin > START_SECONDS:
            raise CommandError(
                f"vmsec-allinone: {doctor}\n{self.last_words()}"
            )

    def cut_power(self) -> None:
        """Kill the agent and all else at once, as a power cut would."""
        if self._allinone is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._allinone.pid, signal.SIGKILL)
        self._allinone.wait()
        self._allinone = None

    def stop(self) -> None:
        """Stop vmsec-allinone in order; do nothing if it does not run."""
        if self._allinone is None:
            return
        self._allinone.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._allinone.wait(STOP_SECONDS)
        self.cut_power()

    def vmsec(self, *arguments: str) -> Any:  # noqa: ANN401 - any JSON value
        """Run a vmsec command on the API and return what it shows.

        Raises:
            CommandError: It failed.
        """
        socket = str(self._sockets / "api.sock")
        return self._run("--api-socket", socket, *arguments)

    def last_seal_ms(self) -> int:
        """Return how long the last seal took, as the agent logged it.

        Raises:
            CommandError: The agent's log tells of no seal.
        """
        found = SEALED_LINE.findall(self._log.read_text(errors="replace"))
        if not found:
            raise CommandError(f"{self._log}: no seal was logged")
        return int(found[-1])

    def has_replayed(self) -> bool:
        """Whether the agent's log tells of a journal that was replayed."""
        return "journal replayed" in self._log.read_text(errors="replace")

    def last_words(self) -> str:
        """Return the end of the log."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:]

    def image_status(self, image: pathlib.Path) -> dict[str, Any]:
        """Return what ``vmsec image status`` says; no service is asked."""
        status: dict[str, Any] = self._run("image", "status", str(image))
        return status

    def _run(self, *arguments: str) -> Any:  # noqa: ANN401 - any JSON value
        result = subprocess.run(
            [str(PROGRAMS / "vmsec"), *arguments, "-f", "json"],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
        )
        if result.returncode:
            raise CommandError(result.stderr.strip() or result.stdout)
        return json.loads(result.stdout)
