"""Rows of key versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from vmsec.kmc.model import Key
from vmsec.kmc.state import KeyState, require_transition

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from vmsec.tpm.blob import SealedKey

CUSTODY_OBJECT = "object"
"""One TPM object per key version."""


def find(session: Session, vm: str, version: int) -> Key | None:
    """Find one version of a VM's key."""
    return session.get(Key, (vm, version))


def listing(session: Session, vm: str | None = None) -> list[Key]:
    """List the key versions of one VM or of all, oldest first."""
    query = select(Key).order_by(Key.vm, Key.version)
    if vm is not None:
        query = query.where(Key.vm == vm)
    return list(session.scalars(query))


def active(session: Session, vm: str) -> Key | None:
    """Find the version to seal with."""
    return session.scalars(
        select(Key).where(Key.vm == vm, Key.state == KeyState.ACTIVE.value)
    ).one_or_none()


def add(
    session: Session,
    vm: str,
    version: int,
    *,
    sealed: SealedKey,
    now: datetime,
) -> Key:
    """Add a key version, active at once."""
    row = Key(
        vm=vm,
        version=version,
        state=KeyState.ACTIVE.value,
        custody=CUSTODY_OBJECT,
        public=sealed.public,
        private=sealed.private,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def deactivate(session: Session, row: Key, *, now: datetime) -> None:
    """Retire a key version; what it sealed can still be unsealed."""
    require_transition(
        KeyState(row.state),
        KeyState.DEACTIVATED,
        what=f"VM {row.vm}: key version {row.version}",
    )
    row.state = KeyState.DEACTIVATED.value
    row.deactivated_at = now
    session.flush()


def mark_released(
    session: Session, vm: str, versions: Sequence[int], *, now: datetime
) -> None:
    """Note the first time that key versions went to a node."""
    for version in versions:
        row = find(session, vm, version)
        if row is not None and row.released_at is None:
            row.released_at = now
    session.flush()
