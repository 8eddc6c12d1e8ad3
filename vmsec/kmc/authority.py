"""Who may have which key when. Pure: facts in, a decision or a refusal out.

The rules of :func:`decide_release`, in this order; each number recurs in the
code:

1. The node is enrolled, and not banned.
2. The VM is placed on this node; one that is placed nowhere goes to the
   first node that starts it.
3. No other node holds the VM.
4. There is an active key, and every key version that a disk of the VM still
   needs is in a state in which it may be released.

A VM that is not known and one that is placed elsewhere get the same refusal,
in code and text, so that a node cannot ask around. What comes before all this
is not a question of authority: a VM that nobody asked to protect has no key.

This module does not look at time, the database or the TPM; the caller reads
the facts in one transaction and records the outcome in the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmsec.errors import (
    AccessDeniedError,
    GenerationMismatchError,
    KeyStateError,
    LeaseHeldError,
    UnknownKeyError,
    UnknownNodeError,
)
from vmsec.kmc.state import RELEASABLE, KeyState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

ENROLLED = "enrolled"
BANNED = "banned"
PLAIN = "plain"
SEALED = "sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The node that asks; ``state`` is ``None`` if it is not on record."""

    name: str
    state: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VMFacts:
    """What is known of the VM that is asked for.

    ``node`` is where it is placed, ``holder`` which node has its disks
    unsealed; ``keys`` gives the state of each key version; ``needed`` are
    the versions that its disks were last sealed with.
    """

    vm: str
    node: str | None
    holder: str | None
    keys: Mapping[int, KeyState]
    needed: AbstractSet[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The decision: these versions, ascending; ``active`` to seal with."""

    versions: tuple[int, ...]
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """A disk's state and generation, on record or as reported."""

    state: str
    generation: int


def unknown_key(vm: str) -> UnknownKeyError:
    """Make the one refusal for "no such VM" and "not yours"."""
    return UnknownKeyError(
        f"VM {vm}: no key for it here; check that it is protected and "
        "placed on this node (vmsec vm show)"
    )


def require_node(node: NodeFacts) -> None:
    """Refuse a node that is not enrolled, or banned.

    Raises:
        UnknownNodeError: Not enrolled.
        AccessDeniedError: Banned.
    """
    if node.state is None:
        raise UnknownNodeError(
            f"node {node.name} is not enrolled; run vmsec node enroll"
        )
    if node.state != ENROLLED:
        raise AccessDeniedError(f"node {node.name} is {node.state}")


def decide_release(node: NodeFacts, vm: VMFacts | None, name: str) -> Release:
    """Decide which key versions of a VM a node gets now.

    Args:
        node: Who asks.
        vm: The VM, or ``None`` if it is not known.
        name: The VM's UUID as asked for.

    Returns:
        The versions. The caller must record the lease and, for a VM that is
        placed nowhere, the placement, before it hands out anything.

    Raises:
        UnknownNodeError: Rule 1.
        AccessDeniedError: Rule 1, banned.
        UnknownKeyError: Rule 2, or the VM is not known.
        LeaseHeldError: Rule 3; may be tried again.
        KeyStateError: Rule 4.
    """
    require_node(node)  # 1
    if vm is None or vm.node not in {None, node.name}:  # 2
        raise unknown_key(name)
    if vm.holder not in {None, node.name}:  # 3
        raise LeaseHeldError(
            f"VM {name}: its disks are in use on node {vm.holder}; stop it "
            "there first"
        )
    active = require_active(vm)  # 4
    versions = tuple(sorted({active, *vm.needed}))
    for version in versions:
        _require_releasable(vm, version)
    return Release(versions=versions, active=active)


def require_active(vm: VMFacts) -> int:
    """Find the version to seal with.

    Raises:
        KeyStateError: No version is active.
    """
    for version, state in vm.keys.items():
        if state is KeyState.ACTIVE:
            return version
    raise KeyStateError(
        f"VM {vm.vm}: no version of its key is active; make a new one "
        "(vmsec vm rekey)"
    )


def _require_releasable(vm: VMFacts, version: int) -> None:
    """Refuse a version whose state forbids its release (rule 4)."""
    state = vm.keys.get(version)
    if state is None or state not in RELEASABLE:
        raise KeyStateError(
            f"VM {vm.vm}: key version {version}, which a disk needs, is "
            f"{state or 'not on record'}"
        )


def require_reporter(node: NodeFacts, vm: VMFacts | None, name: str) -> None:
    """Refuse a node that has no business with a VM's disks.

    A node may report, and read manifests, if it holds the VM or the VM is
    placed on it: after a migration the source finishes what it holds.

    Raises:
        UnknownNodeError: Not enrolled.
        AccessDeniedError: Banned.
        UnknownKeyError: The VM is not known, or is another node's.
    """
    require_node(node)
    if vm is None or node.name not in {vm.node, vm.holder}:
        raise unknown_key(name)


def require_progress(
    recorded: DiskFacts | None, reported: DiskFacts, *, what: str
) -> None:
    """Refuse a report that goes back behind what is on record.

    A seal raises the generation; an unseal keeps it. So at the same
    generation a sealed disk may become plain, and never the reverse.

    Args:
        recorded: The disk on record; ``None`` if this is its first report.
        reported: The disk as reported.
        what: The disk, for the error.

    Raises:
        GenerationMismatchError: The report is older than the record.
    """
    if recorded is None or reported == recorded:
        return
    resealed = recorded.state == PLAIN and reported.state == SEALED
    least = recorded.generation + (1 if resealed else 0)
    if reported.generation < least:
        raise GenerationMismatchError(
            f"{what}: reported {reported.state} at generation "
            f"{reported.generation}, but generation {recorded.generation} "
            f"was {recorded.state} already; was it put back from a copy?"
        )
