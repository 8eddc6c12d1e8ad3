"""nova's notifications, unversioned and versioned.

Both kinds name the same moments, ``compute.instance.create.end`` with a flat
payload and ``instance.create.end`` with a versioned object, and differ in some
names (``finish_resize``, ``resize_finish``).

Where a VM is going to start must be known before libvirt's hook asks there:

- Events of :data:`STARTING` are sent by the host that is about to start the
  VM; the payload may still name the old host, so the publisher counts.
- Events of :data:`PLACED` come when nova has decided or is done; the payload
  counts. ``resize.end`` comes from the source and names the destination.
- After :data:`OFFLOADED` the VM is on no host.

Of a live migration only its end counts: until then the source runs the VM.

Source:
    nova ``doc/source/reference/notifications.rst``, and what a running cloud
    was seen to send, in which order, from where.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from vmsec.controller.event import Placement
from vmsec.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmsec.controller.event import Notification

UNVERSIONED = "compute."
"""Prefix of the unversioned events of instances."""

STARTING = frozenset(
    {
        "instance.create.start",
        "instance.power_on.start",
        "instance.reboot.start",
        "instance.rebuild.start",
        "instance.rescue.start",
        "instance.unrescue.start",
        "instance.resume.start",
        "instance.unshelve.start",
        "instance.resize_finish.start",
        "instance.finish_resize.start",
        "instance.resize_revert.start",
        "instance.resize.revert.start",
    }
)

PLACED = frozenset(
    {
        "instance.create.end",
        "instance.rebuild.end",
        "instance.unshelve.end",
        "instance.resize.end",
        "instance.resize_finish.end",
        "instance.finish_resize.end",
        "instance.resize_revert.end",
        "instance.resize.revert.end",
        "instance.live_migration_post_dest.end",
        "instance.live_migration.post.dest.end",
    }
)

OFFLOADED = frozenset({"instance.shelve_offload.end"})

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?"
_HOST_NAME = re.compile(_HOST)
_PUBLISHER = re.compile(rf"(?:compute\.|nova-compute:)({_HOST})")


class NovaHandler:
    """Reads nova's notifications."""

    def parse(self, notification: Notification) -> Placement | None:
        """Say where a VM is, after an event that tells.

        Raises:
            SchemaError: Such an event without a proper VM or host.
        """
        event = notification.event
        name = event.removeprefix(UNVERSIONED)
        if name not in STARTING | PLACED | OFFLOADED:
            return None
        if event.startswith(UNVERSIONED):
            data, field = notification.payload, "instance_id"
        else:
            data, field = _versioned(notification), "uuid"
        vm = _vm(event, data.get(field))
        if name in OFFLOADED:
            return Placement(vm=vm, node=None)
        if name in STARTING:
            return Placement(vm=vm, node=_publisher(notification))
        return Placement(vm=vm, node=_host(event, data.get("host")))


def _versioned(notification: Notification) -> Mapping[str, object]:
    """Open the envelope of a versioned object."""
    data = notification.payload.get("nova_object.data")
    if not isinstance(data, dict):
        raise SchemaError(f"{notification.event}: not a versioned object")
    return data


def _publisher(notification: Notification) -> str:
    """Take the host from ``compute.HOST`` or ``nova-compute:HOST``."""
    match = _PUBLISHER.fullmatch(notification.publisher)
    if match is None:
        raise SchemaError(f"{notification.event}: not from a compute host")
    return match[1]


def _vm(event: str, value: object) -> str:
    """Take a VM's UUID, in lower case with dashes."""
    try:
        return str(uuid.UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise SchemaError(f"{event}: names no VM") from None


def _host(event: str, value: object) -> str:
    """Take a host's name."""
    if not isinstance(value, str) or _HOST_NAME.fullmatch(value) is None:
        raise SchemaError(f"{event}: names no host")
    return value
