"""From a notification to the KMC: every handler is asked, one by one.

Nothing that goes wrong here makes a notification come again: oslo.messaging
would redeliver a bad one without end. Missing a notification is normal; what
it would have told shows at the VM's next one.
"""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING

from oslo_log import log

from vmsec.controller.event import Notification
from vmsec.errors import (
    RemoteRefusedError,
    SchemaError,
    UnknownKeyError,
    VmsecError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmsec.controller.event import Handler, Placement
    from vmsec.keysync.client import KMCClient

LOG = log.getLogger(__name__)

MAX_EVENT = 255


class Dispatcher:
    """The endpoint of the notification listeners.

    Args:
        handlers: Who reads notifications, by name.
        kmc: Who is told.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], kmc: KMCClient
    ) -> None:
        self._handlers, self._kmc = handlers, kmc
        self._counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def info(
        self,
        _context: object,
        publisher_id: object,
        event_type: object,
        payload: object,
        _metadata: object,
    ) -> None:
        """Take one notification of priority ``info``."""
        if (
            not isinstance(event_type, str)
            or len(event_type) > MAX_EVENT
            or not isinstance(payload, dict)
        ):
            self._count("malformed")
            return
        notification = Notification(
            publisher=str(publisher_id), event=event_type, payload=payload
        )
        for name in self._handlers:
            self._count(self._handle(name, notification))

    def counts(self) -> dict[str, int]:
        """Say how many notifications ended how.

        ``placed``, ``ignored`` (they say nothing of placement),
        ``unprotected``, ``malformed``, ``failed``.
        """
        with self._lock:
            return dict(self._counts)

    def _count(self, outcome: str) -> None:
        """Count an outcome."""
        with self._lock:
            self._counts[outcome] += 1

    def _handle(self, name: str, notification: Notification) -> str:
        """Have one handler read the notification, and do what follows."""
        try:
            placement = self._handlers[name].parse(notification)
            if placement is None:
                return "ignored"
            return self._place(notification.event, placement)
        except SchemaError as err:
            LOG.warning("handler %s: %s", name, err)
            return "malformed"
        except VmsecError as err:
            LOG.warning(
                "handler %s: %s was not passed on: %s",
                name,
                notification.event,
                err,
            )
            return "failed"
        except Exception:
            # The boundary to handlers of other origin: one that fails must
            # not keep the others from their work.
            LOG.exception("handler %s failed", name)
            return "failed"

    def _place(self, event: str, placement: Placement) -> str:
        """Tell the KMC where a VM is; one that is not protected is skipped."""
        try:
            self._kmc.vm_place(placement.vm, placement.node)
        except RemoteRefusedError as err:
            if err.remote_code != UnknownKeyError.code:
                raise
            return "unprotected"
        LOG.info("%s: VM %s on node %s", event, placement.vm, placement.node)
        return "placed"
