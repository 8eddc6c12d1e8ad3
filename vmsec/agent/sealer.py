"""One disk at a time: the sealing engine with this node's keys and memory.

What is remembered of a disk (:class:`~vmsec.agent.state.DiskState`) is
written before its image changes and says what is about to be true, so that a
crash leaves a record that errs to the safe side: a generation is never used
twice, and a disk of which the record says ``sealed`` while the image is plain
is another disk at the old path (a rebuild), which gets a new identity.

A sealed disk is recognised by the identity in its header, never by its path
or target name: rescue swaps targets, resize moves paths.

Crash:
    The engine's journal makes the image; :meth:`DiskSealer.recover` needs no
    key and leaves it sealed.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from vmsec.agent import hookwire
from vmsec.agent.lifecycle import ImageLock
from vmsec.agent.manifests import NodeManifests
from vmsec.agent.state import PLAIN, SEALED, DiskState
from vmsec.errors import (
    ForeignImageError,
    ImageBusyError,
    RecoveryRequiredError,
)
from vmsec.keysync.messages import DiskReport
from vmsec.ondisk.extent import Level
from vmsec.sealing import engine
from vmsec.sealing.image import open_device, open_journal, resolve
from vmsec.sealing.inspection import read_status
from vmsec.sealing.model import ImageRef, SealIdentity, SealSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vmsec.agent.domainxml import ProtectedDisk
    from vmsec.agent.keyring import NodeKeys
    from vmsec.agent.state import NodeState, VMState
    from vmsec.sealing.model import ImageStatus, SealReport

LOG = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


class DiskSealer:
    """Seals, unseals and re-keys single disks.

    Args:
        state: Where disks are remembered.
        keys: This node's keys.
        settings: The engine's; the level is each VM's own.
        fetch_manifest: Asks the KMC for its copy: (VM, disk) -> blob.
    """

    def __init__(
        self,
        state: NodeState,
        keys: NodeKeys,
        settings: SealSettings,
        fetch_manifest: Callable[[UUID, UUID], bytes],
    ) -> None:
        self._state, self._keys = state, keys
        self._settings, self._fetch = settings, fetch_manifest

    def lock_of(self, disks: Iterable[ProtectedDisk]) -> ImageLock:
        """Say whether another process uses any of the images.

        Raises:
            ImageIOError: The file system cannot lock: nothing is known, so
                nothing may be written.
        """
        for disk in disks:
            if not disk.path.exists():
                continue
            raw = resolve(ImageRef(disk.path))
            try:
                # As a raw file, whatever its format is: the lock bytes are
                # those of the container file.
                with open_device(raw, writable=True):
                    pass
            except ImageBusyError:
                return ImageLock.BUSY
        return ImageLock.FREE

    def looks_touched(self, disk: ProtectedDisk) -> bool:
        """Whether a disk may be sealed or half way, at a glance.

        Cheap, and without a lock: for the VMs that nobody protects.
        """
        lba0 = hookwire.read_first_sector(disk.format, str(disk.path))
        if hookwire.is_marked(lba0):
            return True
        settings = self._engine_settings(disk.path)
        return open_journal(resolve(_image(disk)), settings).exists()

    def status(self, disk: ProtectedDisk) -> ImageStatus:
        """Say what a disk's first sector and its journal say."""
        return read_status(
            _image(disk), settings=self._engine_settings(disk.path)
        )

    def recover(self, disk: ProtectedDisk) -> bool:
        """Finish an interrupted job; needs no key (1.3, 2.3).

        Returns:
            Whether there was one.

        Raises:
            ImageBusyError: The image is in use.
            JournalError: The journal cannot be replayed; the operator must
                look.
        """
        if self.status(disk).state != INTERRUPTED:
            return False
        report = engine.recover_image(
            _image(disk), settings=self._engine_settings(disk.path)
        )
        LOG.warning("%s: recovered: journal %s", disk.path, report.action)
        return True

    def seal(self, vm: VMState, disk: ProtectedDisk) -> DiskReport | None:
        """Seal a disk under the VM's current key version (1.1 to 1.7).

        Returns:
            What to report, or ``None`` where it was sealed already (1.4).

        Raises:
            ImageBusyError: The image is in use; nothing was changed.
            VmsecError: It could not be sealed; it is as it was.
        """
        status = self.status(disk)
        _require_recovered(disk, status)
        if status.state == SEALED:
            self._remember_sealed(vm, disk, status)
            return None
        record = self._prepare_record(vm, disk)
        with self._keys.open(vm.vm, record.key_version) as key:
            report = engine.seal_image(
                _image(disk),
                _identity(record),
                key,
                settings=self._engine_settings(disk.path, vm.level),
                manifests=self._manifests(vm.vm, record.disk),
            )
        self._state.save_disk(dataclasses.replace(record, state=SEALED))
        return _report(record, SEALED, report)

    def unseal(self, vm: VMState, disk: ProtectedDisk) -> DiskReport | None:
        """Unseal a disk (2.1 to 2.7).

        Returns:
            What to report, or ``None`` where it was plain already (2.4).

        Raises:
            ForeignImageError: It is another VM's.
            ImageBusyError: The image is in use; nothing was changed.
            VmsecError: It could not be unsealed; it is still sealed.
        """
        status = self.status(disk)
        _require_recovered(disk, status)
        if status.state != SEALED:
            return None
        record = self._remember_sealed(vm, disk, status)
        # Before the image changes: "sealed" on record and plain in fact
        # would be taken for another disk.
        self._state.save_disk(dataclasses.replace(record, state=PLAIN))
        report = engine.unseal_image(
            _image(disk),
            vm=vm.vm,
            keys=self._keys.open,
            settings=self._engine_settings(disk.path, vm.level),
            manifests=self._manifests(vm.vm, record.disk),
        )
        return _report(record, PLAIN, report)

    def rekey(self, vm: VMState, disk: ProtectedDisk) -> DiskReport | None:
        """Re-encrypt a sealed disk under the VM's current key version.

        Returns:
            What to report, or ``None`` where there was nothing to do: a
            plain disk takes the new key at its next seal.

        Raises:
            VmsecError: It is still sealed, under the old or the new key.
        """
        status = self.status(disk)
        _require_recovered(disk, status)
        if status.state != SEALED or status.key_version == vm.key_version:
            return None
        old = self._remember_sealed(vm, disk, status)
        record = dataclasses.replace(
            old, generation=old.generation + 1, key_version=vm.key_version
        )
        self._state.save_disk(record)
        report = engine.rekey_image(
            _image(disk),
            _identity(record),
            keys=self._keys.open,
            settings=self._engine_settings(disk.path, vm.level),
            manifests=self._manifests(vm.vm, record.disk),
        )
        return _report(record, SEALED, report)

    def _prepare_record(self, vm: VMState, disk: ProtectedDisk) -> DiskState:
        """Choose the identity of a seal and make its generation durable."""
        known = self._find_path(vm.vm, disk.path)
        if known is not None and known.state == SEALED:
            # The image was replaced (a rebuild): it is another disk.
            self._state.forget_disk(vm.vm, known.disk)
            known = None
        record = DiskState(
            vm=vm.vm,
            disk=known.disk if known else uuid4(),
            target=disk.target,
            path=str(disk.path),
            format=disk.format,
            generation=known.generation + 1 if known else 1,
            key_version=vm.key_version,
            state=PLAIN,
        )
        self._state.save_disk(record)
        return record

    def _remember_sealed(
        self, vm: VMState, disk: ProtectedDisk, status: ImageStatus
    ) -> DiskState:
        """Take a sealed disk's identity from its header into the records."""
        require_own(vm.vm, disk, status)
        identity, generation, version = _header_of(status)
        known = {item.disk: item for item in self._state.disks(vm.vm)}
        last = known[identity].generation if identity in known else 0
        record = DiskState(
            vm=vm.vm,
            disk=identity,
            target=disk.target,
            path=str(disk.path),
            format=disk.format,
            generation=max(generation, last),
            key_version=version,
            state=SEALED,
        )
        if known.get(identity) != record:
            self._forget_others(record)
            self._state.save_disk(record)
        return record

    def _forget_others(self, record: DiskState) -> None:
        """Forget disks that were at this path before."""
        for other in self._state.disks(record.vm):
            if other.path == record.path and other.disk != record.disk:
                self._state.forget_disk(record.vm, other.disk)

    def _find_path(self, vm: UUID, path: Path) -> DiskState | None:
        """Find the disk that was at a path."""
        for record in self._state.disks(vm):
            if record.path == str(path):
                return record
        return None

    def _engine_settings(self, path: Path, level: str = "") -> SealSettings:
        """Return the engine's settings for one image."""
        settings = self._settings
        if settings.journal_directory is None and path.is_block_device():
            directory = self._state.directory / "journals"
            settings = dataclasses.replace(
                settings, journal_directory=directory
            )
        if level:
            settings = dataclasses.replace(settings, level=Level(level))
        return settings

    def _manifests(self, vm: UUID, disk: UUID) -> NodeManifests:
        """Return where the manifests of a disk are."""
        directory = self._state.manifest_directory(vm)
        return NodeManifests(directory, disk, lambda: self._fetch(vm, disk))


def _image(disk: ProtectedDisk) -> ImageRef:
    """Name a disk for the engine."""
    return ImageRef(disk.path, disk.format)


def _identity(record: DiskState) -> SealIdentity:
    """Return the identity of the seal that a record announces."""
    return SealIdentity(
        vm=record.vm,
        disk=record.disk,
        generation=record.generation,
        key_version=record.key_version,
    )


def _require_recovered(disk: ProtectedDisk, status: ImageStatus) -> None:
    """Refuse an image with a hot journal: it is recovered first."""
    if status.state == INTERRUPTED:
        raise RecoveryRequiredError(
            f"{disk.path}: an interrupted job must be finished first; run "
            "vmsec image recover"
        )


def require_own(vm: UUID, disk: ProtectedDisk, status: ImageStatus) -> None:
    """Check that a disk is plain or sealed for this very VM.

    Raises:
        ForeignImageError: It is sealed for another VM.
    """
    if status.vm not in (None, vm):
        raise ForeignImageError(
            f"{disk.path} ({disk.target}) is sealed for VM {status.vm} and "
            f"starts only there, not in VM {vm}"
        )


def _header_of(status: ImageStatus) -> tuple[UUID, int, int]:
    """Return disk identity, generation and key version of a sealed disk."""
    if not (status.disk and status.generation and status.key_version):
        raise RuntimeError("the engine calls a disk sealed but not which")
    return status.disk, status.generation, status.key_version


def _report(record: DiskState, state: str, report: SealReport) -> DiskReport:
    """Log what the engine did, and write it as a report to the KMC."""
    LOG.info(
        "VM %s: %s (%s) %s in %d ms: %d of %d bytes, generation %d",
        record.vm,
        record.target,
        record.path,
        "sealed" if state == SEALED else "unsealed",
        round(report.seconds * 1000),
        report.sealed_bytes,
        report.disk_bytes,
        report.generation,
    )
    return DiskReport(
        vm=str(record.vm),
        disk=str(record.disk),
        target=record.target,
        state=state,
        generation=report.generation,
        key_version=report.key_version,
        level=str(report.level),
        sealed_bytes=report.sealed_bytes if state == SEALED else 0,
        disk_bytes=report.disk_bytes,
        duration_ms=round(report.seconds * 1000),
        manifest=report.manifest,
    )
