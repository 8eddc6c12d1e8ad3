"""The messages between agent, KMC, controller and API, as values.

Every message is a frozen dataclass of plain types (``str``, ``int``,
``bool``, ``bytes``, ``None`` and tuples of them); :mod:`vmsec.keysync.wire`
turns it into the JSON dictionary that crosses the bus (bytes as base64) and
back, strictly. UUIDs are lower-case text with dashes.
"""

from __future__ import annotations

from dataclasses import dataclass

KMC_TOPIC = "vmsec.kmc"
AGENT_TOPIC = "vmsec.agent"
RPC_VERSION = "1.0"

FAULT = "FAULT: "
"""How a finding of an agent's ``self_test`` begins that is a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A compute node as the KMC knows it.

    ``srk_name`` is the TPM Name of the node's SRK (34 bytes: algorithm and
    SHA-256); ``state`` is ``enrolled`` or ``banned``; times are ISO 8601 UTC.
    """

    name: str
    srk_name: bytes
    state: str
    enrolled_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VMRecord:
    """A protected VM. ``node`` is where it was placed or started last."""

    vm: str
    name: str
    project: str
    node: str | None
    level: str
    key_version: int
    state: str
    disks: tuple[DiskRecord, ...]
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRecord:
    """One disk of a protected VM, as last reported.

    ``state`` is ``plain`` or ``sealed``; ``target`` is the device name in the
    guest (``vda``); ``sealed_bytes``, ``disk_bytes`` in bytes.
    """

    disk: str
    target: str
    state: str
    generation: int
    key_version: int
    level: str
    sealed_bytes: int
    disk_bytes: int
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """One version of a VM's key; never the key itself.

    ``state`` is a key state of NIST SP 800-57 part 1 section 7; ``custody``
    is ``object`` (one TPM object per VM).
    """

    vm: str
    version: int
    state: str
    custody: str
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrant:
    """A VM key on its way to one node's TPM.

    ``public``, ``duplicate`` and ``seed`` are the marshalled TPM2B_PUBLIC,
    TPM2B_PRIVATE and TPM2B_ENCRYPTED_SECRET for TPM2_Import; ``approval`` is
    the KMC's signed permission to unseal (see :mod:`vmsec.tpm.policy`);
    ``approval_public`` is the marshalled TPM2B_PUBLIC of the approval key.
    """

    vm: str
    version: int
    public: bytes
    duplicate: bytes
    seed: bytes
    approval: bytes
    approval_public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireAnswer:
    """The KMC's answer to a node that wants to start a VM.

    ``protected`` is false for a VM that nobody asked to protect: the disk is
    left alone and ``grants`` is empty. ``key_version`` is the version to
    seal with next; ``grants`` hold every version that a disk may still need
    and that the node does not hold.
    """

    vm: str
    protected: bool
    level: str
    key_version: int
    grants: tuple[KeyGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskReport:
    """What a node did to one disk.

    ``manifest`` is the encrypted manifest blob after a seal, else empty.
    ``duration_ms`` is how long it took, in milliseconds.
    """

    vm: str
    disk: str
    target: str
    state: str
    generation: int
    key_version: int
    level: str
    sealed_bytes: int
    disk_bytes: int
    duration_ms: int
    manifest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentJob:
    """The outcome of a manual operation of an agent on one VM."""

    vm: str
    disks: tuple[DiskReport, ...]
    notes: tuple[str, ...]
