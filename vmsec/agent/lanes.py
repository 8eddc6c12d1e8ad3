"""One operation at a time for each VM, in order; different VMs in parallel.

Order matters: a ``prepare`` that overtook the ``release`` before it would
have its disks sealed again under the starting guest.
"""

from __future__ import annotations

import collections
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class Lanes:
    """First in, first out for each key; one thread for each busy key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: dict[
            Hashable, collections.deque[tuple[Future[Any], Callable[[], Any]]]
        ] = {}

    def submit(self, key: Hashable, work: Callable[[], T]) -> Future[T]:
        """Queue an operation.

        Args:
            key: Operations of one key never run together.
            work: Called in a thread of its own.

        Returns:
            Its outcome. Cancelling works until it begins.
        """
        future: Future[T] = Future()
        with self._lock:
            lane = self._waiting.get(key)
            if lane is not None:
                lane.append((future, work))
                return future
            self._waiting[key] = collections.deque([(future, work)])
        threading.Thread(
            target=self._run, args=(key,), name=f"lane-{key}", daemon=True
        ).start()
        return future

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until nothing runs; returns whether that came true."""
        with self._lock:
            return self._idle.wait_for(
                lambda: not self._waiting, timeout_seconds
            )

    def _run(self, key: Hashable) -> None:
        """Work one lane until it is empty."""
        while True:
            with self._lock:
                lane = self._waiting[key]
                if not lane:
                    del self._waiting[key]
                    self._idle.notify_all()
                    return
                future, work = lane.popleft()
            if future.set_running_or_notify_cancel():
                _settle(future, work)


def _settle(future: Future[T], work: Callable[[], T]) -> None:
    """Run one operation and store its outcome, whatever it is."""
    try:
        result = work()
    except BaseException as err:  # noqa: BLE001 - the future's reader gets it
        future.set_exception(err)
    else:
        future.set_result(result)
