"""Tell systemd how a daemon is: the readiness protocol, one datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send a state such as ``READY=1``; without systemd, do nothing.

    A notification that cannot be sent is not worth a daemon's life.

    Source:
        sd_notify(3): a datagram to the UNIX socket that ``NOTIFY_SOCKET``
        names; a leading ``@`` stands for the abstract namespace.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(address)
        sock.sendall(state.encode())
