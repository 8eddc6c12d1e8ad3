"""Keys: who gets which, rotation, and what is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmsec.errors import StoreConflictError
from vmsec.keysync.messages import AcquireAnswer, KeyGrant
from vmsec.kmc import identity
from vmsec.kmc.authority import decide_release, require_active, unknown_key
from vmsec.kmc.decision import Decision, logged
from vmsec.kmc.record import key_record
from vmsec.kmc.retry import retried
from vmsec.kmc.store import key as keys
from vmsec.kmc.store import node as nodes
from vmsec.kmc.store import vm as vms
from vmsec.tpm.blob import SealedKey

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from vmsec.keysync.messages import KeyRecord
    from vmsec.kmc.clock import Clock
    from vmsec.kmc.custody import KeyCustody
    from vmsec.kmc.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A decision with all that it takes; equal plans are one decision."""

    active: int
    level: str
    srk_public: bytes
    sealed: dict[int, SealedKey]


class Keyring:
    """Releases, rotates and lists keys.

    Args:
        database: The KMC's database.
        custody: Keeps the keys.
        clock: Says what time it is.
    """

    def __init__(
        self, database: Database, custody: KeyCustody, clock: Clock
    ) -> None:
        self._database, self._custody = database, custody
        self._clock = clock

    def acquire(
        self, node: str, vm: str, request_id: str, held: tuple[int, ...] = ()
    ) -> AcquireAnswer:
        """Give a node the keys of a VM that it is about to start.

        Versions that the node says to hold are decided on like all others,
        but not migrated again: a hardware TPM takes its time.

        A VM that nobody protects is answered as such: its disk is none of
        our business. Repeating the call gives the same keys, freshly
        encrypted.

        Raises:
            SchemaError: No UUID, node name or request id.
            CustodyError: The authority refused; see
                :func:`~vmsec.kmc.authority.decide_release`.
            TPMError: The keys could not be migrated; nothing was recorded.

        Crash:
            The lease is on record before the answer leaves.
        """
        decision = Decision("acquire", vm=vm, node=node, request=request_id)
        with logged(decision):
            identity.require_node_name(node)
            identity.require_uuid(vm, what="a VM")
            identity.require_request_id(request_id)
            with self._database.reading() as session:
                protected = vms.find(session, vm) is not None
            if not protected:
                decision.reason = "not protected, no key"
                return AcquireAnswer(
                    vm=vm, protected=False, level="", key_version=0, grants=()
                )
            plan, grants = retried(
                lambda: self._release(node, vm, request_id, held)
            )
            decision.version = ",".join(map(str, plan.sealed))
            return AcquireAnswer(
                vm=vm,
                protected=True,
                level=plan.level,
                key_version=plan.active,
                grants=grants,
            )

    def _release(
        self, node: str, vm: str, request_id: str, held: tuple[int, ...]
    ) -> tuple[_Plan, tuple[KeyGrant, ...]]:
        """Decide, migrate, decide again and record.

        The TPM is slow, and no transaction waits for it.
        """
        with self._database.reading() as session:
            plan = _plan(session, node, vm)
        grants = tuple(
            self._migrate(vm, version, sealed, plan.srk_public)
            for version, sealed in plan.sealed.items()
            if version not in held
        )
        with self._database.writing() as session:
            vms.find(session, vm, lock=True)
            if _plan(session, node, vm) != plan:
                raise StoreConflictError(
                    f"VM {vm}: its keys or the node changed meanwhile"
                )
            now = self._clock()
            vms.take(session, vm, node=node, request_id=request_id, now=now)
            keys.mark_released(session, vm, tuple(plan.sealed), now=now)
        return plan, grants

    def _migrate(
        self, vm: str, version: int, sealed: SealedKey, srk_public: bytes
    ) -> KeyGrant:
        """Encrypt a key version to the node's TPM."""
        migrated = self._custody.migrate(sealed, srk_public)
        return KeyGrant(
            vm=vm,
            version=version,
            public=migrated.public,
            duplicate=migrated.duplicate,
            seed=migrated.seed,
            approval=migrated.approval,
            approval_public=migrated.approval_public,
        )

    def rotate(self, vm: str) -> KeyRecord:
        """Make a new active key version.

        The old one is deactivated: it seals nothing any more, and goes to
        nodes while a disk still needs it. A version that never left the KMC
        is new enough: repeating the call without a start in between makes
        no other one.

        Raises:
            SchemaError: No UUID.
            UnknownKeyError: The VM is not protected.
            TPMError: No key could be made; nothing was recorded.
        """
        with logged(Decision("rotate", vm=vm)) as decision:
            identity.require_uuid(vm, what="a VM")
            record = retried(lambda: self._rotate(vm))
            decision.version = record.version
            return record

    def _rotate(self, vm: str) -> KeyRecord:
        """Rotate, unless the active version never left."""
        with self._database.reading() as session:
            row = keys.find(session, vm, _active(session, vm))
            if row is not None and row.released_at is None:
                return key_record(row)
            before = 0 if row is None else row.version
        sealed = self._custody.create_key()
        with self._database.writing() as session:
            vms.find(session, vm, lock=True)
            row = keys.find(session, vm, _active(session, vm))
            if row is None or row.version != before:
                raise StoreConflictError(f"VM {vm}: rotated meanwhile")
            now = self._clock()
            keys.deactivate(session, row, now=now)
            return key_record(
                keys.add(session, vm, before + 1, sealed=sealed, now=now)
            )

    def list_keys(self, vm: str | None) -> tuple[KeyRecord, ...]:
        """List the key versions of one VM or of all, oldest first.

        Raises:
            SchemaError: No UUID.
            UnknownKeyError: The VM is not protected.
        """
        if vm is not None:
            identity.require_uuid(vm, what="a VM")
        with self._database.reading() as session:
            rows = keys.listing(session, vm)
        if vm is not None and not rows:
            raise unknown_key(vm)
        return tuple(key_record(row) for row in rows)

    def show(self, vm: str, version: int | None) -> KeyRecord:
        """Show one key version, by default the active one.

        Raises:
            SchemaError: No UUID.
            UnknownKeyError: The VM or the version is not known.
            KeyStateError: None is active.
        """
        identity.require_uuid(vm, what="a VM")
        with self._database.reading() as session:
            if version is None:
                version = _active(session, vm)
            row = keys.find(session, vm, version)
        if row is None:
            raise unknown_key(vm)
        return key_record(row)


def _plan(session: Session, node: str, vm: str) -> _Plan:
    """Ask the authority, and read what its decision takes.

    Raises:
        CustodyError: The authority refused.
    """
    release = decide_release(
        nodes.facts(session, node), vms.facts(session, vm), vm
    )
    node_row, vm_row = nodes.find(session, node), vms.find(session, vm)
    if node_row is None or vm_row is None:
        raise unknown_key(vm)
    return _Plan(
        active=release.active,
        level=vm_row.level,
        srk_public=node_row.srk_public,
        sealed={
            version: _sealed(session, vm, version)
            for version in release.versions
        },
    )


def _active(session: Session, vm: str) -> int:
    """Find the active version of a VM that is on record."""
    facts = vms.facts(session, vm)
    if facts is None:
        raise unknown_key(vm)
    return require_active(facts)


def _sealed(session: Session, vm: str, version: int) -> SealedKey:
    """Read the TPM object of a key version."""
    row = keys.find(session, vm, version)
    if row is None:
        raise unknown_key(vm)
    return SealedKey(public=row.public, private=row.private)
