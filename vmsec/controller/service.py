"""The controller as a service: it listens, and tells the KMC."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import oslo_messaging
from oslo_log import log
from stevedore import NamedExtensionManager

from vmsec.controller.dispatch import Dispatcher
from vmsec.errors import ConfigurationError, SyncError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmsec.conf.controller import ControllerSettings
    from vmsec.controller.event import Handler
    from vmsec.keysync.client import KMCClient

LOG = log.getLogger(__name__)

NAMESPACE = "vmsec.controller.handlers"


def load_handlers(names: Iterable[str]) -> dict[str, Handler]:
    """Load handlers by the names of their entry points, in this order.

    Raises:
        ConfigurationError: One is not installed or does not load.
    """
    wanted, missing = list(names), set[str]()
    manager: NamedExtensionManager[Handler] = NamedExtensionManager(
        NAMESPACE,
        wanted,
        invoke_on_load=True,
        name_order=True,
        on_missing_entrypoints_callback=missing.update,
        on_load_failure_callback=lambda _manager, point, _error: missing.add(
            point.name
        ),
    )
    if missing or not wanted:
        raise ConfigurationError(
            f"[controller] handlers: {', '.join(sorted(missing)) or 'none'} "
            f"cannot be loaded from the entry points {NAMESPACE}"
        )
    return {
        extension.name: extension.obj
        for extension in manager
        if extension.obj is not None
    }


class ControllerService:
    """Listens to the cloud's notifications and tells the KMC of placement.

    It holds no key and no state, and may be down: then placement is learnt
    late.

    Args:
        settings: What the configuration says.
        kmc: A client of the KMC.
        transport: The cloud's bus, made by
            :func:`~vmsec.keysync.transport.open_notification_transport`; it
            stays the caller's.
    """

    def __init__(
        self,
        settings: ControllerSettings,
        kmc: KMCClient,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
    ) -> None:
        self._settings, self._transport = settings, transport
        self._kmc = kmc
        self._running = contextlib.ExitStack()
        self._stopped = threading.Event()
        self._dispatcher = Dispatcher({}, kmc)

    def start(self) -> None:
        """Load the handlers and begin to listen.

        Each topic has one listener with one thread, so that the
        notifications of a VM are taken in their order.

        Raises:
            ConfigurationError: A handler cannot be loaded.
            SyncError: The bus cannot be reached.
        """
        settings = self._settings
        self._stopped.clear()
        self._dispatcher = Dispatcher(
            load_handlers(settings.handlers), self._kmc
        )
        with contextlib.ExitStack() as stack:
            for topic in settings.topics:
                stack.callback(_finish, self._listen(topic))
            self._running = stack.pop_all()
        LOG.info(
            "listening to %s on exchange %s",
            ", ".join(settings.topics),
            settings.exchange,
        )

    def stop(self) -> None:
        """Take no more notifications, and finish those that were taken."""
        self._running.close()
        self._stopped.set()
        LOG.info("notifications by outcome: %s", self.counts())

    def wait(self) -> None:
        """Wait until :meth:`stop` was called and is done."""
        self._stopped.wait()

    def counts(self) -> dict[str, int]:
        """Say how many notifications ended how, since the start."""
        return self._dispatcher.counts()

    def _listen(self, topic: str) -> Any:  # noqa: ANN401 - oslo.messaging is not typed
        """Start the listener of one topic.

        The pool is vmsec's own copy; with the topic in its name, because
        the queue has no other name than the pool's.
        """
        target = oslo_messaging.Target(
            topic=topic, exchange=self._settings.exchange
        )
        listener = oslo_messaging.get_notification_listener(
            self._transport,
            [target],
            [self._dispatcher],
            pool=f"{self._settings.pool}-{topic}",
        )
        try:
            listener.start(override_pool_size=1)
        except oslo_messaging.ServerListenError as err:
            raise SyncError(
                "cannot listen on the cloud's message bus; is it running, "
                "and is [controller] transport_url right?"
            ) from err
        return listener


def _finish(listener: Any) -> None:  # noqa: ANN401 - oslo.messaging is not typed
    """Stop a listener and wait for what it has taken."""
    listener.stop()
    listener.wait()
