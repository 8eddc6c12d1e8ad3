"""Decide again when another request was first."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from vmsec.errors import StoreConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ATTEMPTS = 3
"""The winner of a conflict has written by then; a third loss in a row means
that three others wrote the same VM within milliseconds."""


def retried(operation: Callable[[], T]) -> T:
    """Run an operation again when it lost against another request.

    Args:
        operation: Reads what is on record before it decides.

    Raises:
        StoreConflictError: It lost every time.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return operation()
        except StoreConflictError:
            continue
    return operation()
