"""Rows as the messages that the KMC answers with."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from vmsec.keysync.messages import (
    DiskRecord,
    KeyRecord,
    NodeRecord,
    VMRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from vmsec.kmc.model import VM, Disk, Key, Node

PROTECTED = "protected"


def format_moment(moment: datetime) -> str:
    """Write a moment as ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_record(row: Node) -> NodeRecord:
    """Describe a node."""
    return NodeRecord(
        name=row.name,
        srk_name=row.srk_name,
        state=row.state,
        enrolled_at=format_moment(row.enrolled_at),
    )


def key_record(row: Key) -> KeyRecord:
    """Describe a key version, without its blobs."""
    return KeyRecord(
        vm=row.vm,
        version=row.version,
        state=row.state,
        custody=row.custody,
        created_at=format_moment(row.created_at),
    )


def disk_record(row: Disk) -> DiskRecord:
    """Describe a disk."""
    return DiskRecord(
        disk=row.disk,
        target=row.target,
        state=row.state,
        generation=row.generation,
        key_version=row.key_version,
        level=row.level,
        sealed_bytes=row.sealed_bytes,
        disk_bytes=row.disk_bytes,
        updated_at=format_moment(row.updated_at),
    )


def vm_record(row: VM, key: Key | None, disks: Iterable[Disk]) -> VMRecord:
    """Describe a VM; version 0 says that no key is active."""
    return VMRecord(
        vm=row.vm,
        name=row.name,
        project=row.project,
        node=row.node,
        level=row.level,
        key_version=0 if key is None else key.version,
        state=PROTECTED,
        disks=tuple(disk_record(disk) for disk in disks),
        created_at=format_moment(row.created_at),
    )
