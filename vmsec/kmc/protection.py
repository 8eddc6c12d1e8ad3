"""Which VMs are protected, how, and where they are placed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import SchemaError
from vmsec.kmc import identity
from vmsec.kmc.authority import unknown_key
from vmsec.kmc.decision import Decision, logged
from vmsec.kmc.model import VM
from vmsec.kmc.record import vm_record
from vmsec.kmc.retry import retried
from vmsec.kmc.store import disk as disks
from vmsec.kmc.store import key as keys
from vmsec.kmc.store import vm as vms
from vmsec.ondisk.extent import Level

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from vmsec.keysync.messages import VMRecord
    from vmsec.kmc.clock import Clock
    from vmsec.kmc.custody import KeyCustody
    from vmsec.kmc.store.database import Database
    from vmsec.tpm.blob import SealedKey

FIRST_VERSION = 1


class Protection:
    """Protects VMs and says what is known of them.

    Args:
        database: The KMC's database.
        custody: Makes the keys.
        clock: Says what time it is.
    """

    def __init__(
        self, database: Database, custody: KeyCustody, clock: Clock
    ) -> None:
        self._database, self._custody = database, custody
        self._clock = clock

    def protect(
        self, vm: str, *, name: str, project: str, level: str, node: str | None
    ) -> VMRecord:
        """Protect a VM: it gets a key, and is sealed from its next stop on.

        Repeating it changes the name, project and level, never the key. A
        node counts only while the VM is placed nowhere: :meth:`place` moves
        it.

        Raises:
            SchemaError: No UUID, level or node name.
            TPMError: No key could be made; nothing was recorded.

        Crash:
            VM and key are recorded together or not at all.
        """
        with logged(Decision("protect", vm=vm, node=node)) as decision:
            identity.require_uuid(vm, what="a VM")
            _require_level(level)
            if node is not None:
                identity.require_node_name(node)
            wanted = VM(
                vm=vm, name=name, project=project, level=level, node=node
            )
            record = retried(lambda: self._protect(wanted))
            decision.version = record.key_version
            return record

    def _protect(self, wanted: VM) -> VMRecord:
        """Update the VM if it is on record, else make its key and add it.

        Two may come here at once: both make a key, outside any transaction,
        and the second to write finds the first one's and drops its own.
        """
        with self._database.writing() as session:
            if _update(session, wanted):
                return _describe(session, wanted.vm)
        sealed = self._custody.create_key()
        with self._database.writing() as session:
            if not _update(session, wanted):
                self._add(session, wanted, sealed)
            return _describe(session, wanted.vm)

    def _add(self, session: Session, wanted: VM, sealed: SealedKey) -> None:
        """Add a VM with its first key."""
        now = self._clock()
        session.add(
            VM(
                vm=wanted.vm,
                name=wanted.name,
                project=wanted.project,
                level=wanted.level,
                node=wanted.node,
                created_at=now,
            )
        )
        session.flush()
        keys.add(session, wanted.vm, FIRST_VERSION, sealed=sealed, now=now)

    def place(self, vm: str, node: str | None) -> VMRecord:
        """Record where the cloud's controller has placed a VM.

        The node that holds the VM's disks unsealed goes on holding them
        until it has sealed them. A VM placed nowhere (``None``) goes to the
        first node that starts it.

        Raises:
            SchemaError: No UUID or node name.
            UnknownKeyError: The VM is not protected; as this is what most
                VMs of a cloud are, it is not logged as a refusal.
        """
        identity.require_uuid(vm, what="a VM")
        if node is not None:
            identity.require_node_name(node)
        with self._database.writing() as session:
            row = vms.find(session, vm, lock=True)
            if row is None:
                raise unknown_key(vm)
            with logged(Decision("place", vm=vm, node=node)):
                row.node = node
                session.flush()
            return _describe(session, vm)

    def list_vms(self) -> tuple[VMRecord, ...]:
        """List all protected VMs, by name."""
        with self._database.reading() as session:
            return tuple(
                _describe(session, row.vm) for row in vms.listing(session)
            )

    def show(self, vm: str) -> VMRecord:
        """Show one protected VM.

        Raises:
            SchemaError: No UUID.
            UnknownKeyError: The VM is not protected.
        """
        identity.require_uuid(vm, what="a VM")
        with self._database.reading() as session:
            return _describe(session, vm)


def _require_level(level: str) -> None:
    """Refuse a level that is none."""
    if level not in set(Level):
        names = ", ".join(Level)
        raise SchemaError(f"no such level; the levels are {names}")


def _update(session: Session, wanted: VM) -> bool:
    """Update a VM that is on record; say whether it is."""
    row = vms.find(session, wanted.vm, lock=True)
    if row is None:
        return False
    row.name, row.project = wanted.name, wanted.project
    row.level = wanted.level
    row.node = row.node or wanted.node
    session.flush()
    return True


def _describe(session: Session, vm: str) -> VMRecord:
    """Describe a VM that is on record."""
    row = vms.find(session, vm)
    if row is None:
        raise unknown_key(vm)
    return vm_record(row, keys.active(session, vm), disks.listing(session, vm))
