"""Policy digests in plain Python; no TPM needed to know what one will say.

Every function takes the policy digest so far (32 zero bytes at the start) and
returns the next one, exactly as the policy command of the same name extends a
session. All digests are SHA-256.

The policy of a VM key never changes; what it allows does::

    OR( Authorize(approval key, "vmsec-use"),
        Authorize(approval key, "vmsec-duplicate") )

Whatever use or duplication policy the KMC's approval key has signed holds.
Today it signs :func:`use_policy` and :func:`duplicate_policy`; one with PCRs
needs no new key object.

Source:
    TPM 2.0 Part 3, section 23 (enhanced authorization commands); Part 2,
    6.5.2 (command codes). The numbers are compared with trial sessions in
    ``tests/functional/tpm``.
"""

from __future__ import annotations

import hashlib

EMPTY = bytes(32)
"""The policy digest of a session to which nothing was asserted yet."""

USE_REFERENCE = b"vmsec-use"
DUPLICATE_REFERENCE = b"vmsec-duplicate"

HMAC = 0x155
DUPLICATE = 0x14B
_POLICY_AUTHORIZE = 0x16A
_POLICY_COMMAND_CODE = 0x16C
_POLICY_DUPLICATION_SELECT = 0x188
_POLICY_NAME_HASH = 0x170
_POLICY_OR = 0x171
_POLICY_SECRET = 0x151

OWNER_NAME = (0x40000001).to_bytes(4, "big")
"""The Name of a permanent handle is the handle (Part 1, 16)."""


def sha256(*parts: bytes) -> bytes:
    """Hash the parts, one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def policy_command_code(command: int, so_far: bytes = EMPTY) -> bytes:
    """Allow one command only (Part 3, 23.11)."""
    return sha256(so_far, _code(_POLICY_COMMAND_CODE), _code(command))


def policy_name_hash(names: bytes, so_far: bytes = EMPTY) -> bytes:
    """Allow one set of handles only (Part 3, 23.14).

    Args:
        names: The Names of the command's handles, one after the other.
        so_far: The digest before.
    """
    return sha256(so_far, _code(_POLICY_NAME_HASH), sha256(names))


def policy_duplication_select(
    object_name: bytes, parent_name: bytes, so_far: bytes = EMPTY
) -> bytes:
    """Allow duplication of one object to one parent (Part 3, 23.15).

    ``includeObject`` is YES: an approval holds for this object alone.
    """
    code = _code(_POLICY_DUPLICATION_SELECT)
    return sha256(so_far, code, object_name, parent_name, b"\x01")


def policy_secret(
    entity_name: bytes, reference: bytes = b"", so_far: bytes = EMPTY
) -> bytes:
    """Demand the authorization of an entity (Part 3, 23.4)."""
    first = sha256(so_far, _code(_POLICY_SECRET), entity_name)
    return sha256(first, reference)


def policy_or(*branches: bytes) -> bytes:
    """Accept any of 2 to 8 digests; begins again from zero (Part 3, 23.6)."""
    if not 2 <= len(branches) <= 8:
        raise ValueError("PolicyOR takes 2 to 8 branches")
    return sha256(EMPTY, _code(_POLICY_OR), *branches)


def policy_authorize(key_name: bytes, reference: bytes) -> bytes:
    """Accept what a key signed; begins again from zero (Part 3, 23.16)."""
    first = sha256(EMPTY, _code(_POLICY_AUTHORIZE), key_name)
    return sha256(first, reference)


def approval_digest(approved: bytes, reference: bytes) -> bytes:
    """Return the aHash that an approval signs (Part 3, 23.16)."""
    return sha256(approved, reference)


def use_policy(key_name: bytes) -> bytes:
    """Return the policy approved for use: TPM2_HMAC with this key alone.

    The key's Name in it makes the approval the proof of origin: its Name
    binds the key's bits, and only the KMC's TPM can sign.
    """
    return policy_name_hash(key_name, policy_command_code(HMAC))


def duplicate_policy(key_name: bytes, parent_name: bytes) -> bytes:
    """Return the policy approved for duplication of a key to one node."""
    return policy_duplication_select(key_name, parent_name)


def vm_key_branches(approval_name: bytes) -> tuple[bytes, bytes]:
    """Return the branches of a VM key's policy: use, duplicate."""
    return (
        policy_authorize(approval_name, USE_REFERENCE),
        policy_authorize(approval_name, DUPLICATE_REFERENCE),
    )


def vm_key_policy(approval_name: bytes) -> bytes:
    """Return the authPolicy of every VM key under an approval key."""
    return policy_or(*vm_key_branches(approval_name))


def approval_key_policy() -> bytes:
    """Return the authPolicy of the approval key: its owner may duplicate it.

    Signing goes by the key's (empty) authValue; the policy is there for the
    day when a second KMC worker gets the key.
    """
    return policy_command_code(DUPLICATE, policy_secret(OWNER_NAME))


def _code(command: int) -> bytes:
    return command.to_bytes(4, "big")
