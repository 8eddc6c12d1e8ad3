"""The states of a key version and the ways between them, as one table.

Source:
    NIST SP 800-57 part 1 revision 5, section 7 ("Key States and
    Transitions"). A key made by the KMC is active at once, so
    ``PRE_ACTIVATION`` is for keys that were prepared ahead.
"""

from __future__ import annotations

import enum

from vmsec.errors import KeyStateError


class KeyState(enum.StrEnum):
    """What a key version may be used for."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


TRANSITIONS: dict[KeyState, frozenset[KeyState]] = {
    KeyState.PRE_ACTIVATION: frozenset(
        {KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.DESTROYED}
    ),
    KeyState.ACTIVE: frozenset(
        {
            KeyState.SUSPENDED,
            KeyState.DEACTIVATED,
            KeyState.COMPROMISED,
            KeyState.DESTROYED,
        }
    ),
    KeyState.SUSPENDED: frozenset(
        {
            KeyState.ACTIVE,
            KeyState.DEACTIVATED,
            KeyState.COMPROMISED,
            KeyState.DESTROYED,
        }
    ),
    KeyState.DEACTIVATED: frozenset(
        {KeyState.COMPROMISED, KeyState.DESTROYED}
    ),
    KeyState.COMPROMISED: frozenset({KeyState.DESTROYED}),
    KeyState.DESTROYED: frozenset(),
}

RELEASABLE = frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED})
"""States in which a key may go to a node. An active key seals and unseals; a
deactivated one only unseals what it sealed (SP 800-57 7.2 and 7.4)."""


def require_transition(old: KeyState, new: KeyState, *, what: str) -> None:
    """Refuse a change of state that the table does not have.

    Args:
        old: The state on record.
        new: The state wanted.
        what: The key, for the error.

    Raises:
        KeyStateError: The table has no such transition.
    """
    if new not in TRANSITIONS[old]:
        raise KeyStateError(f"{what} is {old}; it cannot become {new}")
