"""Run a software TPM (swtpm) for this process.

The TPM dies with the process that started it, also by SIGKILL; its state does
not. It listens on a UNIX socket that only its user may open: whoever can open
it *is* the platform.

What swtpm needs that is not obvious:
    - The control socket is exactly the server socket's path and ``.ctrl``.
    - Its standard error goes to a file: it writes a line per connection, and
      an unread pipe stalls it for good after 2,048 commands.
    - A trial connection would be a client; the kernel's list says as well
      whether it listens.
    - It sends no TPM2_Shutdown when it ends, so :meth:`SoftwareTPM.stop` does.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vmsec.errors import ConfigurationError, TPMUnavailableError
from vmsec.tpm.manufacture import manufacture, sync_tree

if TYPE_CHECKING:
    from types import TracebackType

MAX_SOCKET_PATH_BYTES = 102
"""sun_path holds 108 bytes with its final zero; ``.ctrl`` takes five."""

START_SECONDS = 10
STOP_SECONDS = 5

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_POLL_SECONDS = 0.002
_SHUTDOWN_CLEAR = bytes.fromhex("8001 0000000c 00000145 0000")
"""TPM2_Shutdown(TPM_SU_CLEAR), TPM 2.0 Part 3, 9.4."""

_DIE_WITH_PARENT = (
    *("setpriv", "--pdeathsig", "KILL", "sh", "-c"),
    # the parent may have died before the signal was armed
    'test "$PPID" = "$0" && exec "$@"',
)


class SoftwareTPM:
    """A software TPM, made at the first start and kept in a directory.

    Args:
        directory: Holds the TPMs and their CA, see
            :mod:`vmsec.tpm.manufacture`; made if missing.
        name: Letters, digits, ``-`` and ``_``; not ``ca``.

    Raises:
        ConfigurationError: A name or path that cannot be used.

    Crash:
        The state survives any kill of swtpm, which renames it into place but
        does not sync it. It is synced here after start and at stop; a power
        cut soon after a change in between may lose that change.
    """

    def __init__(self, directory: Path, name: str) -> None:
        if not _NAME.fullmatch(name) or name == "ca":
            raise ConfigurationError(
                f"software TPM {name!r}: a name has letters, digits, - and _, "
                "64 at most, and is not 'ca'"
            )
        self._parent, self._name = Path(directory).absolute(), name
        self._directory = self._parent / name
        self._socket = self._directory / "sock"
        _require_usable(self._socket)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def tcti(self) -> str:
        """The string for :func:`vmsec.tpm.open_tpm`."""
        return f"swtpm:path={self._socket}"

    @property
    def running(self) -> bool:
        """Whether swtpm, started here, lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process of swtpm, or ``None``."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> Self:
        """Make the TPM if there is none, and run it; if it runs, do nothing.

        Raises:
            ConfigurationError: A tool is missing.
            TPMUnavailableError: It runs already elsewhere, or does not start.
            TPMError: It could not be made.
        """
        if self.running:
            return self
        self._release()
        manufacture(self._parent, self._name)
        self._lock = self._take_lock()
        try:
            self._launch()
            self._wait()
            sync_tree(self._directory / "state")
        except BaseException:
            self._end()
            self._release()
            raise
        return self

    def stop(self) -> None:
        """Shut the TPM down in order; if it does not run, do nothing."""
        if self.running:
            _send_shutdown(self._socket)
        ended = self._end()
        self._release()
        if ended:
            sync_tree(self._directory / "state")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _take_lock(self) -> int:
        """Own the state: our lock, then see that swtpm's own is free."""
        lock = os.open(
            self._directory / "lock",
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _require_unlocked(self._directory / "state" / ".lock")
        except BlockingIOError as err:
            os.close(lock)
            raise TPMUnavailableError(
                f"software TPM {self._directory} runs already; stop the "
                "process that runs it"
            ) from err
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _launch(self) -> None:
        """Start swtpm from a thread that lives as long as it does.

        The death signal of Linux follows the *thread* that forked.
        """
        control = Path(f"{self._socket}.ctrl")
        for path in (self._socket, control):
            path.unlink(missing_ok=True)
        command = [
            *(*_DIE_WITH_PARENT, str(os.getpid()), "swtpm", "socket"),
            *("--tpm2", "--tpmstate", f"dir={self._directory}/state"),
            *("--server", f"type=unixio,path={self._socket},mode=0600"),
            *("--ctrl", f"type=unixio,path={control},mode=0600"),
            *("--flags", "not-need-init,startup-clear"),
        ]
        started = threading.Event()
        threading.Thread(
            target=self._keep,
            args=(command, started),
            name=f"swtpm {self._name}",
            daemon=True,
        ).start()
        started.wait()

    def _keep(self, command: list[str], started: threading.Event) -> None:
        """Run swtpm to its end (in its own thread)."""
        try:
            with (self._directory / "swtpm.err").open("wb") as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
        except OSError:
            self._process = None
        finally:
            process = self._process
            started.set()
        if process is not None:
            process.wait()

    def _wait(self) -> None:
        """Wait until both sockets listen."""
        wanted = {str(self._socket), f"{self._socket}.ctrl"}
        deadline = time.monotonic() + START_SECONDS
        while not wanted <= _listening():
            if not self.running or time.monotonic() > deadline:
                raise TPMUnavailableError(
                    f"software TPM {self._directory} does not start: "
                    f"{self._complaint()}"
                )
            time.sleep(_POLL_SECONDS)

    def _complaint(self) -> str:
        try:
            text = (self._directory / "swtpm.err").read_text(errors="replace")
        except OSError as err:
            return str(err.strerror)
        lines = text.strip().splitlines()
        return lines[-1] if lines else "are swtpm and setpriv installed?"

    def _end(self) -> bool:
        """End swtpm; say whether there was one."""
        process, self._process = self._process, None
        if process is None:
            return False
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return True


def _require_usable(path: Path) -> None:
    """Refuse what neither sockets nor the option strings can carry."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"software TPM socket {path}: the path has {length} bytes, a UNIX "
            f"socket's may have {MAX_SOCKET_PATH_BYTES}; choose a shorter "
            "directory"
        )
    if re.search(r"[,\s]", str(path)):
        raise ConfigurationError(
            f"software TPM socket {path}: swtpm's options take no commas or "
            "white space; choose another directory"
        )


def _require_unlocked(path: Path) -> None:
    """Raise BlockingIOError if a swtpm that is not ours has the state.

    swtpm holds a POSIX lock on the file while it runs.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _listening() -> set[str]:
    """Return the paths of all UNIX sockets (of this network namespace)."""
    table = Path("/proc/net/unix").read_text(errors="surrogateescape")
    rows = (line.split(maxsplit=7) for line in table.splitlines())
    return {row[7] for row in rows if len(row) == 8}


def _send_shutdown(path: Path) -> None:
    """Send TPM2_Shutdown(CLEAR); a TPM that does not answer is left alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(STOP_SECONDS)
        try:
            client.connect(str(path))
            client.sendall(_SHUTDOWN_CLEAR)
            client.recv(10)
        except OSError:
            return
