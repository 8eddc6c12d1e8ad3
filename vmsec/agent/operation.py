"""Manual operations on a VM that is off: seal, unseal, re-key.

libvirt is asked before the VM's lane is entered, never inside it.
"""

from __future__ import annotations

import logging
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmsec.agent.domainxml import Domain, ProtectedDisk, parse_domain
from vmsec.agent.lifecycle import ImageLock, Phase
from vmsec.agent.manager import existing
from vmsec.errors import (
    HypervisorError,
    ImageBusyError,
    ImageIOError,
    UnknownKeyError,
)
from vmsec.keysync.messages import AgentJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from vmsec.agent.hookcall import HookHandler
    from vmsec.agent.hostview import HostView
    from vmsec.agent.lanes import Lanes
    from vmsec.agent.manager import VMManager
    from vmsec.agent.sealer import DiskSealer
    from vmsec.agent.state import NodeState, VMState
    from vmsec.keysync.messages import DiskReport

LOG = logging.getLogger(__name__)

JOB_SECONDS = 3600.0
"""A whole terabyte is sealed in less; past it the caller gets an error while
the job goes on."""

Disks = tuple[ProtectedDisk, ...]


class _Target(NamedTuple):
    """A VM as seen before its lane was entered.

    ``running`` is libvirt's word, ``None`` while it is away.
    """

    domain: Domain
    running: bool | None
    calls: int


class Operations:
    """What an operator asks of this node.

    Args:
        state: What this node remembers.
        manager: Does the work.
        sealer: Knows the image locks.
        lanes: Keeps the work on one VM in order.
        hooks: Knows whether a hook came between.
        host: libvirt.
    """

    def __init__(
        self,
        *,
        state: NodeState,
        manager: VMManager,
        sealer: DiskSealer,
        lanes: Lanes,
        hooks: HookHandler,
        host: HostView,
    ) -> None:
        self._state, self._manager, self._sealer = state, manager, sealer
        self._lanes, self._hooks, self._host = lanes, hooks, host

    def seal(self, vm: UUID) -> AgentJob:
        """Seal the disks of a VM that is off.

        Raises:
            ImageBusyError: It runs, or is about to.
            VmsecError: See :meth:`VMManager.seal_all`.
        """
        return self._run(vm, self._manager.seal_all, Phase.OFF)

    def unseal(self, vm: UUID) -> AgentJob:
        """Unseal the disks of a VM that is off, and leave them plain.

        They are sealed again by its next stop, or by :meth:`seal`.

        Raises:
            ImageBusyError: It runs, or is about to.
            VmsecError: See :meth:`VMManager.unseal_all`.
        """
        return self._run(vm, self._manager.unseal_all, Phase.HELD)

    def rekey(self, vm: UUID) -> AgentJob:
        """Re-encrypt the disks of a VM under its newest key version.

        A VM that runs, and a disk that is plain, take it at the next seal.

        Raises:
            VmsecError: See :meth:`VMManager.rekey_all`.
        """
        return self._run(vm, self._manager.rekey_all, None)

    def _run(
        self,
        vm: UUID,
        job: Callable[[VMState, Disks], tuple[DiskReport, ...]],
        phase: Phase | None,
    ) -> AgentJob:
        """Look at libvirt, then do the job on the VM's lane."""
        target = self._look(vm)
        future = self._lanes.submit(vm, lambda: self._do(target, job, phase))
        try:
            return future.result(JOB_SECONDS)
        except FutureTimeoutError:
            raise ImageBusyError(
                f"VM {vm}: still at work after {JOB_SECONDS:g} s; ask for its "
                "status later"
            ) from None

    def _do(
        self,
        target: _Target,
        job: Callable[[VMState, Disks], tuple[DiskReport, ...]],
        phase: Phase | None,
    ) -> AgentJob:
        """Do the job; on the lane."""
        domain = target.domain
        disks = existing(domain.disks)
        known = self._manager.phase_of(domain.uuid)
        if phase is None and self._is_used(target, disks, known):
            self._manager.refresh(domain)
            return _job(domain, (), "it runs: the new key comes with its stop")
        self._require_unused(target, disks, known)
        self._manager.recover(disks)
        vm = self._manager.authorize(
            domain, disks, phase or known, stopping=phase is Phase.OFF
        )
        if vm is None:
            raise UnknownKeyError(
                f"VM {domain.uuid} is not protected; run vmsec vm protect"
            )
        if phase is not None:
            # Before the work: after a crash the reconcile loop goes by it.
            self._manager.set_phase(vm.vm, phase)
        return _job(domain, job(vm, disks), "")

    def _require_unused(
        self, target: _Target, disks: Disks, known: Phase
    ) -> None:
        """Refuse a VM that runs or is about to."""
        if self._is_used(target, disks, known):
            raise ImageBusyError(
                f"VM {target.domain.uuid} ({target.domain.name}) runs or is "
                "about to; stop it first"
            )

    def _is_used(self, target: _Target, disks: Disks, known: Phase) -> bool:
        """Whether the VM runs, here or elsewhere, or may be starting."""
        vm = target.domain.uuid
        if target.running or self._hooks.calls_seen().get(vm, 0) != (
            target.calls
        ):
            return True
        if target.running is None and known in (
            Phase.RUNNING,
            Phase.INCOMING,
        ):
            return True
        return self._sealer.lock_of(disks) is ImageLock.BUSY

    def _look(self, vm: UUID) -> _Target:
        """Ask libvirt about a VM, and fall back on what is remembered."""
        calls = self._hooks.calls_seen().get(vm, 0)
        try:
            found = self._host.find(vm)
        except HypervisorError as err:
            LOG.warning("VM %s: going by what is remembered: %s", vm, err)
            return _Target(self._remembered(vm), None, calls)
        if found is None:
            return _Target(self._remembered(vm), False, calls)
        return _Target(parse_domain(found.xml), found.active, calls)

    def _remembered(self, vm: UUID) -> Domain:
        """Return a VM as it was when it was last seen here."""
        domain = recall(self._state, vm)
        if domain is None:
            raise ImageIOError(
                "open", f"VM {vm}", "neither libvirt nor this agent knows it"
            )
        return domain


def recall(state: NodeState, vm: UUID) -> Domain | None:
    """Return a VM with the disks that this node remembers, or ``None``."""
    known = state.load_vm(vm)
    if known is None:
        return None
    disks = tuple(
        ProtectedDisk(disk.target, Path(disk.path), disk.format)
        for disk in state.disks(vm)
    )
    return Domain(vm, known.name, disks, (), ())


def _job(
    domain: Domain, reports: tuple[DiskReport, ...], note: str
) -> AgentJob:
    """Write the outcome."""
    notes = [note] if note else []
    notes += [f"{disk.target}: {disk.reason}" for disk in domain.excluded]
    notes += [f"{disk.target}: {disk.reason}" for disk in domain.refused]
    if not reports and not note:
        notes.append("there was nothing to do")
    return AgentJob(vm=str(domain.uuid), disks=reports, notes=tuple(notes))
