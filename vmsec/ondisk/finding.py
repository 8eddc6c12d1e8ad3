"""The verdict on what a volume holds."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmsec.ondisk.extent import VolumeMap


class Status(enum.StrEnum):
    """What the planner may do with a partition."""

    FILESYSTEM = "filesystem"
    EMPTY = "empty"
    UNKNOWN = "unknown"
    ENCRYPTED = "encrypted"
    CONTAINER = "container"


class Finding(NamedTuple):
    """The verdict on a volume; ``note`` is for the operator."""

    status: Status
    content: VolumeMap | None
    note: str
