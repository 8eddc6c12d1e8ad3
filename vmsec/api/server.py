"""Serve the API on a UNIX socket with cheroot.

Whoever may connect to the socket may administer keys, so there is no moment
at which it exists with other permissions than the configured ones.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

from cheroot import wsgi

from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from vmsec.conf.api import APISettings

LOG = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5
"""How long requests that are being served may take once we stop."""


class _UnixServer(wsgi.Server):
    """cheroot, with a socket that is not open to everybody."""

    mode = 0o600
    group_id: int | None = None

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        """Bind with our mode and group; cheroot's own would be 0777."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Linux gives the file the mode of the socket (unix_bind in
            # net/unix/af_unix.c): nobody else gets in before the chown.
            os.fchmod(sock.fileno(), self.mode & 0o600)
            sock.bind(bind_addr)
            if self.group_id is not None:
                os.chown(bind_addr, -1, self.group_id)
            os.chmod(bind_addr, self.mode)  # noqa: PTH101 - beside chown
        except OSError:
            sock.close()
            raise
        self.socket = sock
        return sock

    def error_log(
        self, msg: str = "", level: int = logging.INFO, traceback: bool = False
    ) -> None:
        """Send what the server says to the log."""
        LOG.log(level, "%s", msg, exc_info=traceback)


class APIServer:
    """The API on its socket, served by threads.

    Args:
        app: The WSGI application.
        settings: How to listen.
    """

    def __init__(
        self,
        app: Any,  # noqa: ANN401 - a WSGI callable
        settings: APISettings,
    ) -> None:
        self._settings = settings
        self._server = _UnixServer(
            str(settings.socket),
            app,
            numthreads=settings.threads,
            server_name="vmsec-api",
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the socket and begin to serve.

        Raises:
            ConfigurationError: The socket or its group cannot be had.
        """
        path = self._settings.socket
        self._server.mode = self._settings.socket_mode
        self._server.group_id = _group_id(self._settings.socket_group)
        _remove_stale(path)
        try:
            self._server.prepare()
        except OSError as err:
            raise ConfigurationError(
                f"[api] socket {path}: cannot listen: {err.strerror or err}"
            ) from err
        self._thread = threading.Thread(
            target=self._server.serve, name="vmsec-api"
        )
        self._thread.start()
        LOG.info("the API listens on %s", path)

    def stop(self) -> None:
        """Finish the requests that are being served; remove the socket."""
        if self._thread is None:
            return
        self._server.stop()
        self._thread.join()
        self._thread = None
        self._settings.socket.unlink(missing_ok=True)


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as err:
        raise ConfigurationError(
            f"[api] socket_group: there is no group {name!r}; make it with "
            "'groupadd --system', or name another one"
        ) from err


def _remove_stale(path: Path) -> None:
    """Remove a socket that an earlier run left; nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as err:
        raise ConfigurationError(
            f"[api] socket {path}: {err.strerror}"
        ) from err
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(
            f"[api] socket {path}: this is no socket and is left alone; "
            "remove it, or choose another path"
        )
    path.unlink()
