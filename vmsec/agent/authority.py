"""Who says whether a VM is protected, and with which keys: the KMC.

While the KMC is away a node may go on with what it holds, if the operator
allows that (``[agent] offline_start``). VMs that nobody protects must never
suffer from vmsec: their start is refused in no case, and while the KMC is
away they do not each wait for its time-out.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid4

from vmsec.agent.state import VMState
from vmsec.errors import (
    AccessDeniedError,
    PeerTimeoutError,
    RemoteRefusedError,
    SyncError,
    VmsecError,
)

if TYPE_CHECKING:
    from vmsec.agent.keyring import NodeKeys
    from vmsec.agent.lifecycle import Phase
    from vmsec.agent.state import NodeState
    from vmsec.keysync.client import KMCClient
    from vmsec.keysync.messages import AcquireAnswer
    from vmsec.ondisk.extent import Level

LOG = logging.getLogger(__name__)

AWAY_SECONDS = 15.0
"""For so long after a time-out the KMC is asked only where it must be."""


_REFUSALS = ("custody.", "tpm.")


class Policy(NamedTuple):
    """What the operator allows this node.

    ``protect_all`` protects every VM that starts here, at ``level``.
    """

    host: str
    offline_start: bool
    protect_all: bool
    level: Level


class Authority:
    """Asks the KMC, and falls back on what this node holds.

    Args:
        kmc: The key-management centre.
        state: What this node remembers.
        keys: This node's keys.
        policy: What the operator allows.
    """

    def __init__(
        self,
        kmc: KMCClient,
        state: NodeState,
        keys: NodeKeys,
        policy: Policy,
    ) -> None:
        self._kmc, self._state, self._keys = kmc, state, keys
        self._policy = policy
        self._away_until = 0.0
        self._lock = threading.Lock()
        self._undecided: set[UUID] = set()

    def authorize(
        self,
        vm: UUID,
        name: str,
        *,
        phase: Phase,
        sealed: bool,
        stopping: bool = False,
    ) -> VMState | None:
        """Ask whether a VM is protected, and take its keys (1.1, 2.1).

        Args:
            vm: The VM.
            name: Its name, for the operator.
            phase: What to remember of it if it is protected.
            sealed: Whether any of its disks is sealed.
            stopping: It is to be sealed, for which held keys always do.

        Returns:
            The VM as remembered from now on, or ``None``: not protected, as
            far as can be known.

        Raises:
            AccessDeniedError: A disk is sealed, but nobody protects the VM.
            PeerTimeoutError: The KMC is away and this node may not go on.
            RemoteRefusedError: The KMC refused.
            TPMError: The keys could not be imported.
        """
        known = self._state.load_vm(vm)
        needed = known is not None or sealed
        if not needed and time.monotonic() < self._away_until:
            self._ask_again(vm)
            return None
        try:
            answer = self._ask(vm, name)
        except RemoteRefusedError as err:
            # The KMC refuses keys of protected VMs only; any other failure
            # of it must not keep back a VM that may be anybody's.
            if needed or err.remote_code.startswith(_REFUSALS):
                raise
            LOG.warning("VM %s (%s) starts unprotected: %s", vm, name, err)
            self._ask_again(vm)
            return None
        except SyncError as err:
            may = stopping or self._policy.offline_start
            return self._go_on_alone(
                vm, known, needed=needed, may=may, error=err
            )
        return self._take(answer, vm, name, phase=phase, sealed=sealed)

    def expect(self, vm: UUID, name: str, *, phase: Phase) -> None:
        """Ask for the keys of a VM that migrates live to this node.

        Its old node may still hold it: then the keys are asked for again,
        by the reconcile loop and at the latest at the VM's stop.
        """
        try:
            self.authorize(vm, name, phase=phase, sealed=False)
        except VmsecError as err:
            LOG.info("VM %s: its keys come later: %s", vm, err)
            self._ask_again(vm)

    def leave(self, vm: UUID) -> bool:
        """Tell the KMC that a VM runs elsewhere; says whether it knows."""
        try:
            self._kmc.vm_leave(self._policy.host, str(vm))
        except RemoteRefusedError as err:
            LOG.info("VM %s: %s", vm, err)
        except SyncError as err:
            LOG.warning("VM %s: the KMC is told later: %s", vm, err)
            return False
        return True

    def undecided(self) -> frozenset[UUID]:
        """Return the VMs about which the KMC must be asked again."""
        with self._lock:
            return frozenset(self._undecided)

    def is_placed_elsewhere(self, vm: UUID) -> bool:
        """Whether the KMC says that a VM is on another node now.

        Raises:
            SyncError: It could not be asked, or refused.
        """
        return self._kmc.vm_show(str(vm)).node not in (None, self._policy.host)

    def _ask_again(self, vm: UUID, *, again: bool = True) -> None:
        """Note whether the KMC must be asked about a VM again."""
        with self._lock:
            if again:
                self._undecided.add(vm)
            else:
                self._undecided.discard(vm)

    def _ask(self, vm: UUID, name: str) -> AcquireAnswer:
        """Ask the KMC; protect the VM where every VM is to be."""
        host, request = self._policy.host, uuid4().hex
        held = self._keys.held(vm)
        answer = self._kmc.acquire(host, str(vm), request, held)
        if answer.protected or not self._policy.protect_all:
            return answer
        self._kmc.vm_protect(
            str(vm),
            name=name,
            project="",
            level=self._policy.level.value,
            node=host,
        )
        return self._kmc.acquire(host, str(vm), request)

    def _take(
        self,
        answer: AcquireAnswer,
        vm: UUID,
        name: str,
        *,
        phase: Phase,
        sealed: bool,
    ) -> VMState | None:
        """Remember what the KMC answered."""
        self._ask_again(vm, again=False)
        if not answer.protected:
            if sealed:
                raise AccessDeniedError(
                    f"VM {vm} ({name}) has a sealed disk but is not "
                    "protected in this cloud; run vmsec vm protect"
                )
            self._state.forget_vm(vm)
            return None
        state = VMState(
            vm=vm,
            name=name,
            level=answer.level,
            key_version=answer.key_version,
            phase=phase,
        )
        self._state.save_vm(state)
        self._keys.adopt(vm, answer.grants)
        return state

    def _go_on_alone(
        self,
        vm: UUID,
        known: VMState | None,
        *,
        needed: bool,
        may: bool,
        error: SyncError,
    ) -> VMState | None:
        """Decide while the KMC is away."""
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not needed:
            LOG.warning("VM %s is taken for unprotected: %s", vm, error)
            self._ask_again(vm)
            return None
        if known is None or not may:
            why = (
                "this node holds no key of it"
                if known is None
                else "[agent] offline_start is off"
            )
            raise PeerTimeoutError(
                f"VM {vm} is protected and cannot start: {why}, and {error}"
            ) from error
        LOG.warning("VM %s: going on with the keys held here: %s", vm, error)
        return known
