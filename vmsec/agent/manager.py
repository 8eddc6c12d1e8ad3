"""What happens to the disks of one VM.

Every method that changes disks is called inside the VM's lane
(:mod:`vmsec.agent.lanes`), so one at a time and in order. Nothing here calls
libvirt: libvirt may be waiting for us.

What must be true of a protected VM's disks:

    1. While it is off they are sealed, or a failed seal is in the log and the
       reconcile loop tries again.
    2. A start unseals all of them or none.
    3. A disk whose image another process uses is never touched.

Source:
    DESIGN sections 3.8 and 5.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from vmsec.agent.devicemapper import is_dm_crypt
from vmsec.agent.lifecycle import Action, ImageLock, Phase, decide
from vmsec.agent.sealer import INTERRUPTED, require_own
from vmsec.agent.state import SEALED
from vmsec.errors import (
    ForeignImageError,
    ImageBusyError,
    ImageError,
    RemoteRefusedError,
    UnsupportedFormatError,
    VmsecError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from vmsec.agent.authority import Authority
    from vmsec.agent.domainxml import Domain, ProtectedDisk
    from vmsec.agent.outbox import Outbox
    from vmsec.agent.sealer import DiskSealer
    from vmsec.agent.state import NodeState, VMState
    from vmsec.keysync.messages import DiskReport
    from vmsec.sealing.model import ImageStatus

LOG = logging.getLogger(__name__)


class VMManager:
    """Prepares VMs for their start and seals them when they stopped.

    Args:
        state: What this node remembers.
        authority: Says which VMs are protected.
        sealer: Does single disks.
        outbox: Takes the reports to the KMC.
    """

    def __init__(
        self,
        state: NodeState,
        authority: Authority,
        sealer: DiskSealer,
        outbox: Outbox,
    ) -> None:
        self._state, self._authority = state, authority
        self._sealer, self._outbox = sealer, outbox
        self._phases: dict[UUID, Phase] = {}

    def phase_of(self, vm: UUID) -> Phase:
        """Return what is known of a VM, be it protected or not."""
        known = self._state.load_vm(vm)
        return known.phase if known else self._phases.get(vm, Phase.OFF)

    def set_phase(self, vm: UUID, phase: Phase) -> None:
        """Remember a phase: durably for a protected VM."""
        known = self._state.load_vm(vm)
        if known is None:
            self._phases[vm] = phase
        elif known.phase is not phase:
            self._state.save_vm(dataclasses.replace(known, phase=phase))

    def prepare(self, domain: Domain) -> None:
        """Make a VM's disks ready for its start (2.1 to 2.7).

        Raises:
            VmsecError: It must not start; its disks are sealed as before.
        """
        disks = existing(domain.disks)
        phase = self.phase_of(domain.uuid)
        concerns_us = self._concerns_us(domain, disks)
        incoming = phase is Phase.INCOMING
        lock = (
            self._sealer.lock_of(disks)
            if concerns_us or incoming
            else ImageLock.FREE
        )
        action = decide(Action.UNSEAL, lock=lock, phase=phase)
        if action is Action.TAKE_KEYS:
            self._authority.expect(domain.uuid, domain.name, phase=phase)
            return
        if concerns_us and lock is ImageLock.FREE:
            self.recover(disks)
        vm = self.authorize(domain, disks if concerns_us else (), phase)
        if vm is None:
            self._phases[domain.uuid] = phase
            return
        _require_known_formats(domain)
        if action is Action.REFUSE_BUSY:
            raise ImageBusyError(
                f"a disk of VM {vm.vm} ({vm.name}) is in use by another "
                "process; stop that first"
            )
        self.unseal_all(vm, disks)
        self.set_phase(vm.vm, Phase.RUNNING)

    def release(self, domain: Domain, reason: str) -> None:
        """Seal a VM's disks after its stop (1.1 to 1.7).

        Args:
            domain: The VM.
            reason: libvirt's word for why it stopped, or ``-``.

        Raises:
            VmsecError: A disk could not be sealed; all others are, and the
                reconcile loop tries again.
        """
        disks = existing(domain.disks)
        lock = self._sealer.lock_of(disks)
        phase = self.phase_of(domain.uuid)
        action = decide(Action.SEAL, reason=reason, lock=lock, phase=phase)
        if action is not Action.SEAL:
            self._leave(domain, action, phase)
            return
        vm = self._state.load_vm(domain.uuid)
        if vm is None or domain.uuid in self._authority.undecided():
            # Protected while it ran, perhaps ("from its next stop on"), or
            # here by live migration.
            vm = self._authorize_stop(domain, disks, vm)
        if vm is not None:
            self.set_phase(vm.vm, Phase.OFF)
            self.recover(disks)
            self.seal_all(vm, disks)
        self._phases.pop(domain.uuid, None)

    def refresh(self, domain: Domain) -> None:
        """Take the newest keys of a VM that runs, for its next seal.

        Raises:
            VmsecError: See :meth:`Authority.authorize`.
        """
        self.authorize(domain, (), self.phase_of(domain.uuid))

    def _concerns_us(
        self, domain: Domain, disks: tuple[ProtectedDisk, ...]
    ) -> bool:
        """Whether a VM is known here, or has a disk that was sealed."""
        if self._state.load_vm(domain.uuid) is not None:
            return True
        return any(map(self._sealer.looks_touched, disks))

    def _authorize_stop(
        self,
        domain: Domain,
        disks: tuple[ProtectedDisk, ...],
        known: VMState | None,
    ) -> VMState | None:
        """Ask about a VM that stopped; held keys do if the KMC refuses."""
        try:
            return self.authorize(domain, disks, Phase.OFF, stopping=True)
        except RemoteRefusedError as err:
            if known is None:
                raise
            LOG.warning("VM %s: sealed with held keys: %s", domain.uuid, err)
            return known

    def _leave(self, domain: Domain, action: Action, phase: Phase) -> None:
        """Leave the disks of a VM that runs elsewhere, or may."""
        LOG.info(
            "VM %s (%s): its disks are left alone: %s",
            domain.uuid,
            domain.name,
            "it migrated"
            if action is Action.LEAVE_ELSEWHERE
            else "another process uses them",
        )
        came_back = phase is Phase.INCOMING  # a migration to here failed
        told = came_back or self._authority.leave(domain.uuid)
        sure = told and action is Action.LEAVE_ELSEWHERE
        self.set_phase(domain.uuid, Phase.ELSEWHERE if sure else Phase.UNSURE)

    def recover(self, disks: tuple[ProtectedDisk, ...]) -> None:
        """Finish interrupted jobs; needs no key (1.3, 2.3).

        Raises:
            VmsecError: A journal could not be replayed.
        """
        for disk in disks:
            self._sealer.recover(disk)

    def seal_all(
        self, vm: VMState, disks: tuple[ProtectedDisk, ...]
    ) -> tuple[DiskReport, ...]:
        """Seal every disk; one that fails does not keep the others plain.

        Returns:
            The reports of those that were plain.

        Raises:
            VmsecError: The first failure, after all were tried.
        """
        return self._each(vm, disks, self._sealer.seal)

    def unseal_all(
        self, vm: VMState, disks: tuple[ProtectedDisk, ...]
    ) -> tuple[DiskReport, ...]:
        """Unseal every disk or none.

        Raises:
            VmsecError: One could not be unsealed; those before it are
                sealed again.
        """
        done: list[ProtectedDisk] = []
        reports: list[DiskReport] = []
        try:
            for disk in disks:
                report = self._sealer.unseal(vm, disk)
                if report is not None:
                    done.append(disk)
                    reports.append(report)
        except VmsecError:
            self._undo_unseal(vm, tuple(done))
            raise
        self._send(reports)
        return tuple(reports)

    def rekey_all(
        self, vm: VMState, disks: tuple[ProtectedDisk, ...]
    ) -> tuple[DiskReport, ...]:
        """Re-encrypt every sealed disk under the VM's key version.

        Raises:
            VmsecError: The first failure, after all were tried.
        """
        return self._each(vm, disks, self._sealer.rekey)

    def _undo_unseal(
        self, vm: VMState, disks: tuple[ProtectedDisk, ...]
    ) -> None:
        """Seal again what a refused start had unsealed."""
        try:
            self.seal_all(vm, disks)
        except VmsecError as err:
            # The refusal itself is what the operator must see first;
            # the reconcile loop seals what is left.
            LOG.error("VM %s: %s", vm.vm, err)  # noqa: TRY400 - one line

    def _each(
        self,
        vm: VMState,
        disks: tuple[ProtectedDisk, ...],
        job: Callable[[VMState, ProtectedDisk], DiskReport | None],
    ) -> tuple[DiskReport, ...]:
        """Do all disks, then raise the first failure."""
        reports: list[DiskReport] = []
        failures: list[VmsecError] = []
        for disk in disks:
            try:
                report = job(vm, disk)
            except VmsecError as err:
                LOG.error("VM %s: %s: %s", vm.vm, disk.target, err)  # noqa: TRY400 - one line
                failures.append(err)
            else:
                reports += [report] if report else []
        self._send(reports)
        if failures:
            raise failures[0]
        return tuple(reports)

    def _send(self, reports: list[DiskReport]) -> None:
        """Queue reports; a full disk must not undo what was done."""
        for report in reports:
            try:
                self._outbox.put(report)
            except ImageError as err:
                LOG.error("report of disk %s lost: %s", report.disk, err)  # noqa: TRY400 - one line

    def authorize(
        self,
        domain: Domain,
        disks: tuple[ProtectedDisk, ...],
        phase: Phase,
        *,
        stopping: bool = False,
    ) -> VMState | None:
        """Ask whether the VM is protected, and take its keys (1.1, 2.1).

        A VM that nobody protects may start with another VM's sealed disk: it
        meets the boot stub, which says whose disk that is.

        Raises:
            ForeignImageError: It is protected and a disk is another VM's.
            VmsecError: See :meth:`Authority.authorize`.
        """
        sealed, foreign = False, None
        for disk in disks:
            status = self._sealer.status(disk)
            try:
                require_own(domain.uuid, disk, status)
            except ForeignImageError as err:
                foreign = err
            else:
                sealed |= _is_sealed(status)
        vm = self._authority.authorize(
            domain.uuid,
            domain.name,
            phase=phase,
            sealed=sealed,
            stopping=stopping,
        )
        if foreign is not None:
            if vm is not None:
                raise foreign
            LOG.warning("VM %s (%s): %s", domain.uuid, domain.name, foreign)
        return vm


def existing(disks: tuple[ProtectedDisk, ...]) -> tuple[ProtectedDisk, ...]:
    """Return the disks whose image is there and is vmsec's to seal.

    A missing one is libvirt's to complain about, and a VM's deletion removes
    them before its last ``release``. A dm-crypt volume carries its own
    encryption: whoever opens it next would find no header and format it.
    """
    found = []
    for disk in disks:
        if not disk.path.exists():
            LOG.warning("%s: %s is not there", disk.target, disk.path)
        elif is_dm_crypt(disk.path):
            LOG.info("%s: %s is a dm-crypt volume", disk.target, disk.path)
        else:
            found.append(disk)
    return tuple(found)


def _is_sealed(status: ImageStatus) -> bool:
    """Whether a disk may not be taken for plain."""
    return status.state in (SEALED, INTERRUPTED)


def _require_known_formats(domain: Domain) -> None:
    """Refuse a protected VM with a disk whose format is not said."""
    for disk in domain.refused:
        raise UnsupportedFormatError(
            f"disk {disk.target} of VM {domain.uuid}: {disk.reason}"
        )
