"""What nodes report of disks, and the manifests kept for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import (
    GenerationMismatchError,
    KeyStateError,
    ManifestError,
    SchemaError,
)
from vmsec.kmc import identity
from vmsec.kmc.authority import (
    PLAIN,
    SEALED,
    DiskFacts,
    require_node,
    require_progress,
    require_reporter,
    unknown_key,
)
from vmsec.kmc.decision import Decision, logged
from vmsec.kmc.retry import retried
from vmsec.kmc.store import disk as disks
from vmsec.kmc.store import key as keys
from vmsec.kmc.store import node as nodes
from vmsec.kmc.store import vm as vms
from vmsec.ondisk.extent import Level

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from vmsec.keysync.messages import DiskReport
    from vmsec.kmc.clock import Clock
    from vmsec.kmc.store.database import Database


class Ledger:
    """Keeps what is known of disks.

    Args:
        database: The KMC's database.
        clock: Says what time it is.
        manifests_kept: How many manifests are kept per disk.
    """

    def __init__(
        self, database: Database, clock: Clock, *, manifests_kept: int
    ) -> None:
        self._database, self._clock = database, clock
        self._kept = manifests_kept

    def report(self, node: str, report: DiskReport) -> None:
        """Record what a node did to a disk.

        When all disks of the VM that are on record are sealed, the node
        holds the VM no longer. Repeating a report changes nothing.

        Raises:
            SchemaError: A field of the report is not what it should be.
            CustodyError: The VM is not this node's, or the report is older
                than the record.

        Crash:
            Disk, manifest and lease change together or not at all.
        """
        decision = Decision(
            "report", vm=report.vm, node=node, version=report.key_version
        )
        with logged(decision):
            identity.require_node_name(node)
            _require_form(report)
            decision.reason = (
                f"disk {report.disk} {report.state} at generation "
                f"{report.generation}"
            )
            retried(lambda: self._report(node, report))

    def _report(self, node: str, report: DiskReport) -> None:
        """Check the report against the record, and write it."""
        with self._database.writing() as session:
            facts = vms.facts(session, report.vm, lock=True)
            require_reporter(nodes.facts(session, node), facts, report.vm)
            if keys.find(session, report.vm, report.key_version) is None:
                raise KeyStateError(
                    f"VM {report.vm}: key version {report.key_version} is "
                    "not on record"
                )
            require_progress(
                _recorded(session, report),
                DiskFacts(state=report.state, generation=report.generation),
                what=f"VM {report.vm}, disk {report.disk}",
            )
            now = self._clock()
            disks.record(session, report, node=node, now=now)
            if report.manifest and not _is_kept(session, report):
                disks.keep_manifest(session, report, kept=self._kept, now=now)
            states = {row.state for row in disks.listing(session, report.vm)}
            if states == {SEALED}:
                vms.let_go(session, report.vm, node=node)

    def leave(self, node: str, vm: str) -> None:
        """Record that a VM migrated live away from the node that held it.

        Its disks are in use elsewhere now, so the node holds them no longer,
        and the VM is placed nowhere unless the controller has placed it.
        Repeating it changes nothing.

        Raises:
            SchemaError: No node name or UUID.
            CustodyError: The VM is not this node's.
        """
        with logged(Decision("leave", vm=vm, node=node)):
            identity.require_node_name(node)
            identity.require_uuid(vm, what="a VM")
            retried(lambda: self._leave(node, vm))

    def _leave(self, node: str, vm: str) -> None:
        """Let go of the lease and of the node's own placement."""
        with self._database.writing() as session:
            facts = vms.facts(session, vm, lock=True)
            require_node(nodes.facts(session, node))
            if facts is None:
                raise unknown_key(vm)
            vms.let_go(session, vm, node=node)
            vms.displace(session, vm, node=node)

    def manifest(
        self, node: str, vm: str, disk: str, generation: int | None
    ) -> bytes:
        """Fetch a manifest, by default that of the newest generation.

        Raises:
            SchemaError: No node name or UUID.
            CustodyError: The VM is not this node's.
            ManifestError: None is kept for this disk or generation.
        """
        with logged(Decision("manifest", vm=vm, node=node)):
            identity.require_node_name(node)
            identity.require_uuid(vm, what="a VM")
            identity.require_uuid(disk, what="a disk")
            with self._database.reading() as session:
                require_reporter(
                    nodes.facts(session, node), vms.facts(session, vm), vm
                )
                row = disks.find_manifest(session, vm, disk, generation)
            if row is None:
                which = "" if generation is None else f" at {generation}"
                raise ManifestError(
                    f"VM {vm}, disk {disk}: no manifest is kept{which}; "
                    "the disk itself and its node may have one"
                )
            return row.manifest


def _require_form(report: DiskReport) -> None:
    """Refuse a report whose fields make no sense together."""
    identity.require_uuid(report.vm, what="a VM")
    identity.require_uuid(report.disk, what="a disk")
    if report.state not in {PLAIN, SEALED}:
        raise SchemaError("a disk is reported as plain or sealed")
    if report.level not in set(Level):
        raise SchemaError("a disk is reported with a level that is none")
    if report.state == SEALED and report.generation < 1:
        raise SchemaError("a sealed disk has a generation of 1 or more")
    if not 0 < len(report.target) <= identity.TARGET_CHARACTERS:
        raise SchemaError("a disk's target is 1 to 64 characters")


def _recorded(session: Session, report: DiskReport) -> DiskFacts | None:
    """Read what is on record of the disk."""
    row = disks.find(session, report.vm, report.disk)
    if row is None:
        return None
    return DiskFacts(state=row.state, generation=row.generation)


def _is_kept(session: Session, report: DiskReport) -> bool:
    """Whether this very manifest is kept; refuse another of its generation.

    Raises:
        GenerationMismatchError: A generation is used once (DESIGN 3.3).
    """
    row = disks.find_manifest(
        session, report.vm, report.disk, report.generation
    )
    if row is None:
        return False
    if row.manifest != report.manifest:
        raise GenerationMismatchError(
            f"VM {report.vm}, disk {report.disk}: generation "
            f"{report.generation} was reported with another manifest"
        )
    return True
