"""The agent's UNIX socket, on which the libvirt hook calls.

The directory is 0755, the socket 0600, and each caller's uid is checked
(SO_PEERCRED): root, or the agent's own. One thread serves one connection,
which carries one request and one answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from vmsec.agent import hookwire
from vmsec.agent.hookwire import HookAnswer, WireError
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmsec.agent.hookwire import HookRequest

LOG = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""Within which the whole request must have come; the hook sends it at once."""

MAX_CONNECTIONS = 256
"""libvirtd has 20 workers by default; more hooks cannot be open at once."""

_UCRED = struct.Struct("iII")


class HookServer:
    """Serves hook calls until stopped.

    Args:
        path: The socket; a dead one is replaced.
        handle: Answers one request; must not raise.

    Raises:
        ConfigurationError: The socket cannot be made, or another agent
            listens on it.
    """

    def __init__(
        self, path: Path, handle: Callable[[HookRequest], HookAnswer]
    ) -> None:
        self._path, self._handle = path, handle
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._listener = _listen(path)
        self._thread = threading.Thread(
            target=self._accept, name="hook-server", daemon=True
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more calls and remove the socket."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread.is_alive():
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        """Accept callers until the listener is shut down."""
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                LOG.warning("hook: too many calls at once")
                link.close()
                continue
            threading.Thread(
                target=self._serve, args=(link,), name="hook-call", daemon=True
            ).start()

    def _serve(self, link: socket.socket) -> None:
        """Serve one caller."""
        try:
            with link:
                self._converse(link)
        except (OSError, WireError) as err:
            # A caller that is no hook, or gone: it gets no answer.
            LOG.warning("hook: call dropped: %s", err)
        finally:
            self._slots.release()

    def _converse(self, link: socket.socket) -> None:
        """Read one request and answer it."""
        _require_trusted(link)
        link.settimeout(REQUEST_SECONDS)
        with link.makefile("rb") as stream:
            value = hookwire.read_frame(stream)
        try:
            request = hookwire.request_from_dict(value)
        except WireError as err:
            answer = HookAnswer(1, f"the hook does not fit the agent: {err}")
        else:
            answer = self._handle(request)
        link.sendall(hookwire.pack_frame(answer._asdict()))


def _require_trusted(link: socket.socket) -> None:
    """Refuse callers other than root and ourselves."""
    credentials = link.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size
    )
    _, uid, _ = _UCRED.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise WireError(f"uid {uid} may not call the agent")


def _listen(path: Path) -> socket.socket:
    """Make the socket, mode 0600 from its first moment."""
    _require_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # Without write permission nobody connects: so it is bound with none
        # and opened to the owner afterwards.
        os.fchmod(listener.fileno(), 0o000)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
    except OSError as err:
        listener.close()
        raise ConfigurationError(
            f"{path}: cannot listen ({err.strerror or err}); check "
            "[agent] socket"
        ) from err
    return listener


def _require_free(path: Path) -> None:
    """Refuse to take the place of an agent that answers, or of a file."""
    if path.exists() and not path.is_socket():
        raise ConfigurationError(f"{path}: is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return
            reason = err.strerror or str(err)
            raise ConfigurationError(
                f"{path}: cannot be used ({reason}); check [agent] socket"
            ) from err
    raise ConfigurationError(
        f"{path}: another vmsec-agent listens there; stop it first"
    )
