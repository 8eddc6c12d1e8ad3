"""Rows of disks and of their manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from vmsec.kmc.model import Disk, Manifest

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from vmsec.keysync.messages import DiskReport


def find(session: Session, vm: str, disk: str) -> Disk | None:
    """Find one disk of a VM."""
    return session.get(Disk, (vm, disk))


def listing(session: Session, vm: str | None = None) -> list[Disk]:
    """List the disks of one VM or of all, by target."""
    query = select(Disk).order_by(Disk.vm, Disk.target, Disk.disk)
    if vm is not None:
        query = query.where(Disk.vm == vm)
    return list(session.scalars(query))


def record(
    session: Session, report: DiskReport, *, node: str, now: datetime
) -> Disk:
    """Write what a node reported over what was on record."""
    row = session.merge(
        Disk(
            vm=report.vm,
            disk=report.disk,
            target=report.target,
            state=report.state,
            generation=report.generation,
            key_version=report.key_version,
            level=report.level,
            sealed_bytes=report.sealed_bytes,
            disk_bytes=report.disk_bytes,
            node=node,
            updated_at=now,
        )
    )
    session.flush()
    return row


def find_manifest(
    session: Session, vm: str, disk: str, generation: int | None = None
) -> Manifest | None:
    """Find a manifest, by default that of the newest generation."""
    query = select(Manifest).where(Manifest.vm == vm, Manifest.disk == disk)
    if generation is not None:
        query = query.where(Manifest.generation == generation)
    query = query.order_by(Manifest.generation.desc()).limit(1)
    return session.scalars(query).one_or_none()


def keep_manifest(
    session: Session, report: DiskReport, *, kept: int, now: datetime
) -> None:
    """Keep a manifest, and only the ``kept`` newest of its disk."""
    session.add(
        Manifest(
            vm=report.vm,
            disk=report.disk,
            generation=report.generation,
            key_version=report.key_version,
            manifest=report.manifest,
            created_at=now,
        )
    )
    session.flush()
    mine = (Manifest.vm == report.vm, Manifest.disk == report.disk)
    newest = session.scalars(
        select(Manifest.generation)
        .where(*mine)
        .order_by(Manifest.generation.desc())
        .limit(kept)
    ).all()
    session.execute(
        delete(Manifest).where(*mine, Manifest.generation < newest[-1])
    )
