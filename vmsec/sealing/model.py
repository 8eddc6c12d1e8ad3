"""The words between the engine and its callers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vmsec.ondisk.extent import Level
from vmsec.secret import SecretBytes
from vmsec.units import MIB

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

KeySource = Callable[["UUID", int], SecretBytes]
"""(VM, key version) -> the VM's key of 32 bytes; raises CustodyError."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all), called often; it must be quick."""

RAW = "raw"
QEMU_FORMATS = ("qcow2", "vmdk", "vdi", "vhdx")
FORMATS = (RAW, *QEMU_FORMATS)


class ImageRef(NamedTuple):
    """Which image, and of which format.

    ``format`` is never probed: a guest could write any container's header
    into its raw disk. One of :data:`FORMATS`.
    """

    path: Path
    format: str = RAW


class SealIdentity(NamedTuple):
    """Under which name a disk is sealed.

    ``generation`` (1 or more) is higher than at any earlier seal of the disk
    and already durable at the caller's; ``key_version`` names the VM key.
    """

    vm: UUID
    disk: UUID
    generation: int
    key_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSettings:
    """How to seal.

    ``journal_directory`` is where journals lie; ``None``: beside the image
    (block devices need a directory). ``fallback_bytes`` is sealed at the head
    and tail of a partition whose file system is unknown.
    """

    level: Level = Level.METADATA
    journal_directory: Path | None = None
    fallback_bytes: int = 4 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """What a seal, unseal, re-key or verification did.

    ``sealed_bytes`` of ``disk_bytes`` are (were) ciphertext in ``extents``
    extents; ``classes`` has (extents, bytes) per class of metadata;
    ``manifest`` is the blob after a seal or re-key, else empty; ``embedded``
    says whether the disk itself holds it.
    """

    vm: UUID
    disk: UUID
    generation: int
    key_version: int
    level: str
    extents: int
    sealed_bytes: int
    disk_bytes: int
    seconds: float
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    manifest: bytes = b""
    embedded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStatus:
    """What LBA 0 and the journal say, without any key.

    ``state`` is ``plain``, ``sealed`` or ``interrupted`` (a hot journal is
    there). The rest is from the mark (or the journal) and not authenticated;
    ``None`` for a plain disk.
    """

    state: str
    disk_bytes: int
    vm: UUID | None = None
    disk: UUID | None = None
    generation: int | None = None
    key_version: int | None = None
    level: str | None = None
    embedded: bool | None = None
    journal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """One partition as ``inspect`` shows it; bytes throughout."""

    number: int
    offset: int
    length: int
    type_id: str
    status: str
    filesystem: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReport:
    """What would be sealed: partitions, classes, and what stays readable."""

    label: str
    disk_bytes: int
    level: str
    partitions: tuple[PartitionReport, ...]
    classes: dict[str, tuple[int, int]]
    sealed_bytes: int
    notes: tuple[str, ...]
    stays_readable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What recovery did: ``none``, ``replayed`` or ``discarded``.

    ``state`` is the disk's state afterwards, ``plain`` or ``sealed``.
    """

    action: str
    state: str
