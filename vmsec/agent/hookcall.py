"""One call of the libvirt hook, from request to answer.

libvirt holds the domain's lock while a hook runs, and with it every caller
that lists domains: so each call is answered within a deadline, whatever the
work behind it does. Only ``prepare`` refuses.
"""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, NamedTuple

from vmsec.agent.domainxml import parse_domain
from vmsec.agent.hookwire import HookAnswer
from vmsec.agent.lifecycle import PHASES, Action, asked_by
from vmsec.errors import VmsecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from uuid import UUID

    from vmsec.agent.domainxml import Domain
    from vmsec.agent.hookwire import HookRequest
    from vmsec.agent.lanes import Lanes
    from vmsec.agent.manager import VMManager

LOG = logging.getLogger(__name__)

DONE = HookAnswer(0, "")


class Budget(NamedTuple):
    """How long a hook call may take, in seconds."""

    prepare: float
    release: float


class HookHandler:
    """Turns hook calls into work on the VM's lane, and outcomes into answers.

    Args:
        manager: Does the work.
        lanes: Keeps the calls of one VM in order.
        budget: How long libvirt is kept waiting.
    """

    def __init__(
        self, manager: VMManager, lanes: Lanes, budget: Budget
    ) -> None:
        self._manager, self._lanes, self._budget = manager, lanes, budget
        self._lock = threading.Lock()
        self._calls: dict[UUID, int] = {}

    def calls_seen(self) -> dict[UUID, int]:
        """Return how often each VM's hook was called.

        Whoever compares libvirt's list with the disks looks here before and
        after: a call in between makes the list worthless.
        """
        with self._lock:
            return dict(self._calls)

    def handle(self, request: HookRequest) -> HookAnswer:
        """Answer one call; never raises."""
        asked = asked_by(request.operation, request.suboperation)
        if asked is Action.NOTHING:
            return DONE
        try:
            self._do(asked, request)
        except VmsecError as err:
            return _refuse(request, str(err))
        except Exception as err:
            # The hook boundary: an unknown failure refuses a start.
            incident = uuid.uuid4().hex[:12]
            LOG.exception("hook %s: incident %s", request.operation, incident)
            text = f"internal error {type(err).__name__}, incident {incident}"
            return _refuse(request, f"{text}; see the log of vmsec-agent")
        return DONE

    def _do(self, asked: Action, request: HookRequest) -> None:
        """Queue the work and wait for it as long as its budget allows."""
        domain = parse_domain(request.xml.encode("utf-8", "surrogateescape"))
        with self._lock:
            seen = self._calls.get(domain.uuid, 0)
            self._calls[domain.uuid] = seen + 1
        work = self._work(asked, domain, request.extra)
        future = self._lanes.submit(domain.uuid, work)
        is_start = asked is Action.UNSEAL
        budget = self._budget.prepare if is_start else self._budget.release
        try:
            future.result(budget)
        except FutureTimeoutError:
            self._late(future, domain, budget, is_start=is_start)

    def _work(
        self, asked: Action, domain: Domain, reason: str
    ) -> Callable[[], None]:
        """Return what a call asks for."""
        if asked is Action.UNSEAL:
            return lambda: self._manager.prepare(domain)
        if asked is Action.SEAL:
            return lambda: self._manager.release(domain, reason)
        phase = PHASES[asked]
        return lambda: self._manager.set_phase(domain.uuid, phase)

    def _late(
        self,
        future: Future[None],
        domain: Domain,
        budget: float,
        *,
        is_start: bool,
    ) -> None:
        """Answer before the work is done.

        Crash:
            A refused start is followed by ``release`` on the same lane: it
            seals again what a late unseal still does.
        """
        if is_start:
            future.cancel()
            raise _TooLateError(
                f"its disks were not ready after {budget:g} s; wait until "
                "vmsec-agent has finished with them and start it again"
            )
        LOG.info("VM %s: its seal goes on in the background", domain.uuid)
        future.add_done_callback(_log_outcome)


class _TooLateError(VmsecError):
    """The start's deadline has passed."""

    code = "agent.late"
    retryable = True


def _log_outcome(future: Future[None]) -> None:
    """Log how work ended for which nobody waits any more."""
    error = future.exception()
    if error is not None:
        LOG.error("work in the background failed: %s", error)


def _refuse(request: HookRequest, reason: str) -> HookAnswer:
    """Refuse a start; of other calls the failure is only logged."""
    line = f"VM {request.name}: {reason}"
    LOG.error("hook %s: %s", request.operation, line)
    asked = asked_by(request.operation, request.suboperation)
    return HookAnswer(1 if asked is Action.UNSEAL else 0, line)
