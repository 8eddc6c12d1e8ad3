"""What a notification says, as a value; and what a handler is.

Notifications come from another system's bus and are input like any other:
nothing of them is believed but names that have the form of names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification as it came; ``publisher`` says which service sent it."""

    publisher: str
    event: str
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A VM is on this node from now on; ``None``: on none."""

    vm: str
    node: str | None


class Handler(Protocol):
    """Reads the notifications of one kind of cloud controller.

    Handlers are entry points of the group ``vmsec.controller.handlers``,
    made without arguments. They only read: what follows from a notification
    is the service's to do.
    """

    def parse(self, notification: Notification) -> Placement | None:
        """Say what a notification means for placement.

        Returns:
            The placement, or ``None`` if nothing is said of it.

        Raises:
            SchemaError: One that should say something is malformed.
        """
        ...
