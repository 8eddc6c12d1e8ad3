"""What no hook told: found by comparing libvirt's domains with the disks.

A host that lost power, a libvirtd or an agent that was down: then a VM is off
and its disks are plain. Each pass finishes interrupted jobs first, which needs
no key and no libvirt, and then seals the plain disks of protected VMs that do
not run.

A pass must not seal under a VM that is just starting. So nothing is touched
if the VM's hook was called since before libvirt was asked, if another process
holds the image, or if the VM runs on another node now.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from vmsec.agent.domainxml import parse_domain
from vmsec.agent.lifecycle import ImageLock, Phase
from vmsec.agent.manager import existing
from vmsec.agent.operation import recall
from vmsec.agent.state import SEALED
from vmsec.errors import HypervisorError, ImageBusyError, SyncError, VmsecError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from uuid import UUID

    from vmsec.agent.authority import Authority
    from vmsec.agent.domainxml import Domain
    from vmsec.agent.hookcall import HookHandler
    from vmsec.agent.hostview import HostDomain, HostView
    from vmsec.agent.lanes import Lanes
    from vmsec.agent.manager import VMManager
    from vmsec.agent.sealer import DiskSealer
    from vmsec.agent.state import NodeState

LOG = logging.getLogger(__name__)

_NOT_OURS = frozenset({Phase.HELD, Phase.ELSEWHERE})


class Reconciler:
    """Makes passes at the start, on a timer, and when libvirt comes back.

    Args:
        state: What this node remembers.
        manager: Does the work.
        sealer: Knows the image locks.
        lanes: Keeps the work on one VM in order.
        hooks: Knows whether a hook came between.
        host: libvirt.
        authority: Knows where a VM was started last.
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
        authority: Authority,
    ) -> None:
        self._state, self._manager, self._sealer = state, manager, sealer
        self._lanes, self._hooks, self._host = lanes, hooks, host
        self._authority = authority
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval_seconds: float) -> None:
        """Begin to make passes, the first at once."""
        self._thread = threading.Thread(
            target=self._run,
            args=(interval_seconds,),
            name="reconcile",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Make no more passes; one that runs is finished."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def poke(self) -> None:
        """Make the next pass soon."""
        self._wake.set()

    def recover_journals(self) -> None:
        """Finish interrupted jobs on all known disks; needs no key (1.3).

        What cannot be finished is logged: it must not keep the agent down,
        and the VM's start will refuse.
        """
        waiting = [
            (vm, self._lanes.submit(vm, partial(self._recover, vm)))
            for vm in self._state.vms()
        ]
        _await(waiting)

    def run_once(self) -> None:
        """Make one pass.

        Raises:
            SchemaError: The state directory holds what is not the agent's.
        """
        self.recover_journals()
        calls = self._hooks.calls_seen()
        try:
            found = {domain.uuid: domain for domain in self._host.domains()}
        except HypervisorError as err:
            LOG.info("no comparison with libvirt: %s", err)
            return
        waiting = []
        for vm in {*self._state.vms(), *self._authority.undecided()}:
            work = partial(self._settle, vm, calls.get(vm, 0), found.get(vm))
            waiting.append((vm, self._lanes.submit(vm, work)))
        _await(waiting)

    def _run(self, interval_seconds: float) -> None:
        """Make passes until told to stop."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.run_once()
            except VmsecError as err:
                LOG.error("reconcile: %s", err)  # noqa: TRY400 - one line
            except Exception:
                # The loop is the safety net: it must outlive any surprise.
                LOG.exception("reconcile: a pass failed")
            LOG.debug("reconcile: a pass is done")
            self._wake.wait(interval_seconds)

    def _recover(self, vm: UUID) -> None:
        """Finish the interrupted jobs of one VM; on its lane."""
        domain = recall(self._state, vm)
        if domain is None:
            return
        try:
            self._manager.recover(existing(domain.disks))
        except ImageBusyError:
            LOG.info("VM %s: in use, not recovered here", vm)

    def _settle(self, vm: UUID, seen: int, found: HostDomain | None) -> None:
        """Seal a protected VM that is off; on its lane."""
        if self._hooks.calls_seen().get(vm, 0) != seen:
            return  # libvirt's list is older than the hook's call
        phase = self._manager.phase_of(vm)
        if found is not None and found.active:
            self._note_running(vm, found, phase)
            return
        if phase in _NOT_OURS:
            return
        domain = parse_domain(found.xml) if found else recall(self._state, vm)
        if domain is not None:
            self._seal(domain, phase)

    def _note_running(self, vm: UUID, found: HostDomain, phase: Phase) -> None:
        """Note that a VM runs, and ask for keys that it still lacks."""
        if phase is Phase.INCOMING:
            return
        self._manager.set_phase(vm, Phase.RUNNING)
        if vm in self._authority.undecided():
            self._authority.expect(vm, found.name, phase=Phase.RUNNING)

    def _seal(self, domain: Domain, phase: Phase) -> None:
        """Seal the plain disks of a VM that is off, unless they are used."""
        disks = existing(domain.disks)
        if self._sealer.lock_of(disks) is ImageLock.BUSY:
            LOG.info("VM %s: its disks are in use", domain.uuid)
            return
        states = {self._sealer.status(disk).state for disk in disks}
        if states <= {SEALED} or self._has_moved(domain.uuid, phase):
            return
        vm = self._state.load_vm(domain.uuid) or self._manager.authorize(
            domain, disks, Phase.OFF, stopping=True
        )
        if vm is None:
            return
        self._manager.set_phase(vm.vm, Phase.OFF)
        self._manager.recover(disks)
        for report in self._manager.seal_all(vm, disks):
            LOG.warning(
                "VM %s: disk %s was plain though the VM is off; sealed",
                vm.vm,
                report.target,
            )

    def _has_moved(self, vm: UUID, phase: Phase) -> bool:
        """Whether a VM was started on another node since; notes it.

        The image lock cannot tell a VM that is off from one that another
        node is just starting. The KMC can.
        """
        if self._state.load_vm(vm) is None:
            return False
        if phase is Phase.UNSURE:
            self._authority.leave(vm)
        try:
            moved = self._authority.is_placed_elsewhere(vm)
        except SyncError as err:
            LOG.info("VM %s: where it runs is not known: %s", vm, err)
            # Stopping needs no KMC: this node held the VM last, unless
            # another process used its disks at its release.
            return phase is Phase.UNSURE
        if moved:
            LOG.info("VM %s: it is another node's now", vm)
            self._manager.set_phase(vm, Phase.ELSEWHERE)
        return moved


def _await(waiting: list[tuple[UUID, Future[None]]]) -> None:
    """Wait for work on several VMs; log what failed."""
    for vm, future in waiting:
        try:
            future.result()
        except VmsecError as err:
            LOG.error("VM %s: %s", vm, err)  # noqa: TRY400 - one line
