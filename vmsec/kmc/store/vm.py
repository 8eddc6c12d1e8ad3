"""Rows of protected VMs, and of the nodes that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from vmsec.kmc.authority import VMFacts
from vmsec.kmc.model import VM, Lease
from vmsec.kmc.state import KeyState
from vmsec.kmc.store import disk, key

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


def find(session: Session, vm: str, *, lock: bool = False) -> VM | None:
    """Find a VM.

    Args:
        session: The transaction.
        vm: Its UUID.
        lock: Keep other transactions from writing it until this one ends.
            (SQLite has one writer at a time anyway.)
    """
    return session.get(VM, vm, with_for_update=lock or None)


def listing(session: Session) -> list[VM]:
    """List all VMs, by name."""
    return list(session.scalars(select(VM).order_by(VM.name, VM.vm)))


def facts(session: Session, vm: str, *, lock: bool = False) -> VMFacts | None:
    """Say what the authority needs to know of a VM; ``None`` if unknown."""
    row = find(session, vm, lock=lock)
    if row is None:
        return None
    lease = session.get(Lease, vm)
    return VMFacts(
        vm=vm,
        node=row.node,
        holder=None if lease is None else lease.node,
        keys={
            version.version: KeyState(version.state)
            for version in key.listing(session, vm)
        },
        needed=frozenset(
            record.key_version for record in disk.listing(session, vm)
        ),
    )


def take(
    session: Session, vm: str, *, node: str, request_id: str, now: datetime
) -> None:
    """Record that a node holds a VM, and is where it is placed."""
    row = find(session, vm)
    if row is not None:
        row.node = node
    lease = session.get(Lease, vm)
    if lease is None:
        session.add(
            Lease(vm=vm, node=node, request_id=request_id, acquired_at=now)
        )
    else:
        lease.request_id, lease.acquired_at = request_id, now
    session.flush()


def let_go(session: Session, vm: str, *, node: str) -> None:
    """Record that a node holds a VM no longer."""
    lease = session.get(Lease, vm)
    if lease is not None and lease.node == node:
        session.delete(lease)
        session.flush()


def displace(session: Session, vm: str, *, node: str) -> None:
    """Record that a VM is placed on a node no longer, if it was."""
    row = find(session, vm)
    if row is not None and row.node == node:
        row.node = None
        session.flush()
