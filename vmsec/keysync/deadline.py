"""A bound on how long a call over the bus may take.

oslo.messaging honours its own timeout only once it has a connection: with the
broker away from the start, ``call(timeout=2)`` was seen blocked after thirty
seconds. So the call runs in a thread of its own, and whoever waits for it
gives up in time; the thread ends when the library lets go of it.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

from vmsec.errors import PeerTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_ABANDONED = 64
"""Calls that may hang in the library at once; then new ones are refused."""


class Deadline:
    """Runs calls, each for a limited time.

    Args:
        peer: The service that is called, for the error's text.
        seconds: How long a call may take.
    """

    def __init__(self, peer: str, seconds: float) -> None:
        self._peer, self._seconds = peer, seconds
        self._slots = threading.BoundedSemaphore(MAX_ABANDONED)

    def run(self, call: Callable[[], T]) -> T:
        """Run a call and return its result, or raise its exception.

        Raises:
            PeerTimeoutError: It took too long.
        """
        if not self._slots.acquire(blocking=False):
            raise PeerTimeoutError(
                f"{self._peer}: {MAX_ABANDONED} calls hang already; is the "
                "message bus running?"
            )
        outcome: queue.SimpleQueue[tuple[T, None] | tuple[None, Exception]]
        outcome = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put((call(), None))
            except Exception as err:  # noqa: BLE001 - handed to the waiter
                outcome.put((None, err))
            finally:
                self._slots.release()

        threading.Thread(target=work, name="vmsec-call", daemon=True).start()
        try:
            result, error = outcome.get(timeout=self._seconds)
        except queue.Empty as err:
            raise PeerTimeoutError(
                f"{self._peer}: the message bus did not take the call in "
                f"{self._seconds:g} s; check [messaging] transport_url"
            ) from err
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # no error, so a result
