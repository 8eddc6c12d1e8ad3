"""What libvirt says about this host's domains; the only user of libvirt.

Used by the reconcile loop, manual operations and the self-test, never while
a hook is being served: libvirt holds the domain's lock then, and waiting for
it here would be waiting for ourselves.

libvirtd away is normal. A call fails with :class:`HypervisorError`, and the
next one connects again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import libvirt

from vmsec.errors import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 5
KEEPALIVE_MISSES = 3
"""A libvirtd that hangs is given up after 15 to 20 s."""

RETRY_SECONDS = 2.0
"""Between two attempts to connect."""


class HostDomain(NamedTuple):
    """A domain as libvirt shows it; ``xml`` is its live XML if it runs."""

    uuid: UUID
    name: str
    active: bool
    xml: bytes


class HostView:
    """A connection to one libvirtd, renewed when it breaks.

    Args:
        uri: Which libvirtd, such as ``qemu:///system``.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._on_connect: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._connection: Any = None
        self._stopping = threading.Event()

    def start(self, on_connect: Callable[[], None]) -> None:
        """Begin to watch the connection; returns at once.

        Args:
            on_connect: Called after each (re)connection, in a thread that
                must not be kept: what happened before came with no event.
        """
        self._on_connect = on_connect
        _start_event_loop()
        watcher = threading.Thread(
            target=self._watch, name="libvirt-watch", daemon=True
        )
        watcher.start()

    def stop(self) -> None:
        """Close the connection."""
        self._stopping.set()
        with self._lock:
            self._drop()

    def domains(self) -> tuple[HostDomain, ...]:
        """List all domains of the host, those that run and those that do not.

        Raises:
            HypervisorError: libvirt does not answer.
        """
        with self._calling() as connection:
            found = connection.listAllDomains()
            return tuple(
                item for item in map(_describe, found) if item is not None
            )

    def find(self, vm: UUID) -> HostDomain | None:
        """Find one domain, or ``None`` where libvirt knows no such one.

        Raises:
            HypervisorError: libvirt does not answer.
        """
        with self._calling() as connection:
            try:
                domain = connection.lookupByUUID(vm.bytes)
            except libvirt.libvirtError as err:
                if err.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            return _describe(domain)

    def version(self) -> str:
        """Return libvirt's version, as proof that it answers.

        Raises:
            HypervisorError: libvirt does not answer.
        """
        with self._calling() as connection:
            number = connection.getLibVersion()
        major, rest = divmod(number, 1_000_000)
        minor, patch = divmod(rest, 1000)
        return f"{major}.{minor}.{patch}"

    @contextlib.contextmanager
    def _calling(self) -> Any:  # noqa: ANN401 - libvirt is not typed
        """Give the connection, and drop it if it turns out to be dead."""
        connection = self._connect()
        try:
            yield connection
        except libvirt.libvirtError as err:
            with self._lock:
                if self._connection is connection and not _is_alive(
                    connection
                ):
                    self._drop()
            raise HypervisorError(
                f"libvirt ({self._uri}): {err.get_error_message()}"
            ) from err

    def _connect(self) -> Any:  # noqa: ANN401 - libvirt is not typed
        """Return the connection, a new one if there is none."""
        with self._lock:
            if self._connection is not None and _is_alive(self._connection):
                return self._connection
            self._drop()
            try:
                self._connection = libvirt.open(self._uri)
                self._connection.setKeepAlive(
                    KEEPALIVE_SECONDS, KEEPALIVE_MISSES
                )
            except libvirt.libvirtError as err:
                self._drop()
                raise HypervisorError(
                    f"libvirt does not answer at {self._uri}: "
                    f"{err.get_error_message()}; is libvirtd running?"
                ) from err
            connection = self._connection
        LOG.info("connected to libvirt at %s", self._uri)
        if self._on_connect is not None:
            self._on_connect()
        return connection

    def _watch(self) -> None:
        """Keep a connection, so that one that came back is noticed."""
        while not self._stopping.wait(RETRY_SECONDS):
            with contextlib.suppress(HypervisorError):
                self._connect()

    def _drop(self) -> None:
        """Close the connection; the lock is held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()


def _describe(domain: Any) -> HostDomain | None:  # noqa: ANN401 - libvirt
    """Read one domain, or ``None`` where it vanished meanwhile."""
    try:
        active = bool(domain.isActive())
        return HostDomain(
            uuid=UUID(bytes=domain.UUID()),
            name=domain.name(),
            active=active,
            xml=domain.XMLDesc().encode(),
        )
    except libvirt.libvirtError as err:
        if err.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _is_alive(connection: Any) -> bool:  # noqa: ANN401 - libvirt
    """Whether the connection still stands, by its own account."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


_LOOP_LOCK = threading.Lock()
_LOOP: list[threading.Thread] = []
"""libvirt has one event loop for the whole process, registered before the
first connection; keep-alive lives in it."""


def _start_event_loop() -> None:
    """Start libvirt's event loop once in this process."""
    with _LOOP_LOCK:
        if _LOOP:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints every error on stderr unless told otherwise.
        libvirt.registerErrorHandler(lambda *_: None, None)
        _LOOP.append(
            threading.Thread(target=_run_loop, name="libvirt", daemon=True)
        )
        _LOOP[0].start()


def _run_loop() -> None:
    """Run libvirt's event loop for as long as the process lives."""
    while True:
        libvirt.virEventRunDefaultImpl()
