"""What a hook call means: a pure table, without I/O.

libvirt's words alone are no authority. On live migration over shared storage
the destination sees ``prepare`` and the source sees ``release`` while the
guest runs on the other host; before libvirt 10.5 ``release`` carries no
reason. The image lock decides: where another process holds it, the disk is
never touched.

=========== ========= ============= =================================
operation   image     VM            action
=========== ========= ============= =================================
migrate     -         any           note the incoming migration
prepare     free      any           unseal
prepare     busy      incoming      take the keys only
prepare     busy      any other     refuse
started     -         any           note that it runs
reconnect   -         any           note that it runs
release     free      any           seal, whatever the reason is ...
release     free      migrated away ... but ``migrated``: leave it
release     busy      any           leave it, it runs elsewhere
any other   -         any           nothing
=========== ========= ============= =================================

``release`` with reason ``saved`` seals too: the guest's memory in the save
file expects the identical bytes back, and that is what unsealing gives it.
``migrated`` with a free lock is a storage migration, or shared storage whose
locks do not work; the second would destroy a running guest's disk, so both
are left and the operator is told.

Source:
    facts of libvirt 9.0 to 11.3; DESIGN section 5.
"""

from __future__ import annotations

import enum


class Action(enum.Enum):
    """What the manager does."""

    NOTHING = enum.auto()
    NOTE_INCOMING = enum.auto()
    NOTE_RUNNING = enum.auto()
    UNSEAL = enum.auto()
    TAKE_KEYS = enum.auto()
    REFUSE_BUSY = enum.auto()
    SEAL = enum.auto()
    LEAVE_ELSEWHERE = enum.auto()
    LEAVE_UNSURE = enum.auto()


class ImageLock(enum.Enum):
    """Whether another process uses any of the VM's images."""

    FREE = enum.auto()
    BUSY = enum.auto()


class Phase(enum.StrEnum):
    """What this node knows of a protected VM; kept durably.

    ``OFF``: does not run; plain disks are to be sealed.
    ``RUNNING``: started here.
    ``INCOMING``: a live migration to this node is under way.
    ``ELSEWHERE``: it left by migration; its disks are another node's.
    ``UNSURE``: at its release another process held the image; whose VM it is
    now must be asked.
    ``HELD``: unsealed by an operator; stays plain until the next start.
    """

    OFF = "off"
    RUNNING = "running"
    INCOMING = "incoming"
    ELSEWHERE = "elsewhere"
    UNSURE = "unsure"
    HELD = "held"


MIGRATED = "migrated"
"""The reason that libvirt 10.5 and later give to ``release``."""

PHASES = {
    Action.NOTE_INCOMING: Phase.INCOMING,
    Action.NOTE_RUNNING: Phase.RUNNING,
}
"""What the two informing calls tell of the VM."""

_CALLS = {
    ("migrate", "begin"): Action.NOTE_INCOMING,
    ("prepare", "begin"): Action.UNSEAL,
    ("started", "begin"): Action.NOTE_RUNNING,
    ("reconnect", "begin"): Action.NOTE_RUNNING,
    ("release", "end"): Action.SEAL,
}


def asked_by(operation: str, suboperation: str) -> Action:
    """Say what a hook call asks for if nothing stands against it.

    Args:
        operation: libvirt's word, ``argv[2]`` of the hook.
        suboperation: ``begin`` or ``end``.
    """
    return _CALLS.get((operation, suboperation), Action.NOTHING)


def decide(
    asked: Action, *, reason: str = "-", lock: ImageLock, phase: Phase
) -> Action:
    """Decide what is done about what a hook call of a protected VM asks.

    Args:
        asked: From :func:`asked_by`.
        reason: Why it stopped (``argv[4]``), or ``-`` where libvirt does not
            say.
        lock: Of the VM's protected images, now.
        phase: What this node knows of the VM.
    """
    if asked is Action.UNSEAL:
        return _decide_prepare(lock, phase)
    if asked is Action.SEAL:
        return _decide_release(lock, reason, phase)
    return asked


def _decide_prepare(lock: ImageLock, phase: Phase) -> Action:
    """Decide whether a start unseals."""
    if lock is ImageLock.FREE:
        return Action.UNSEAL
    if phase is Phase.INCOMING:
        return Action.TAKE_KEYS
    return Action.REFUSE_BUSY


def _decide_release(lock: ImageLock, reason: str, phase: Phase) -> Action:
    """Decide whether a stop seals."""
    if reason == MIGRATED:
        return Action.LEAVE_ELSEWHERE
    if lock is ImageLock.FREE:
        return Action.SEAL
    if phase is Phase.INCOMING:
        # The migration to this node failed: the guest goes on at its source.
        return Action.LEAVE_ELSEWHERE
    return Action.LEAVE_UNSURE
