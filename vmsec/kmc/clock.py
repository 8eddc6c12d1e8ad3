"""The time, passed in wherever it is needed and read once per request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Says what time it is, with a zone."""


def system_clock() -> datetime:
    """Read the system's clock, in UTC."""
    return datetime.now(UTC)
