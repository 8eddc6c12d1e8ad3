"""Policy digests equal what a TPM computes.

The vectors were made by trial sessions of a TPM, driven by tpm2-tools 5.4
(the duplication one by the TSS, whose tool has no includeObject there).
"""

from __future__ import annotations

import hashlib

import pytest

from vmsec.tpm import policy

OBJECT = b"\x00\x0b" + hashlib.sha256(b"object").digest()
PARENT = b"\x00\x0b" + hashlib.sha256(b"parent").digest()

VECTORS = {
    "command code": (
        policy.policy_command_code(policy.HMAC),
        "14d27f7b1c2d6ce4f11708c7dae90c7f425b343f8797b62889e3571159e0a694",
    ),
    "use": (
        policy.use_policy(OBJECT),
        "6bacc648949369dbbdaee235ca5cffff58ed11adae8ade435ab288b6788132ea",
    ),
    "duplicate": (
        policy.duplicate_policy(OBJECT, PARENT),
        "78bcb3b9b6a0aa4c2b2d61fe8c932701a0e1c8a823dbd0dd337559eff09c5fa3",
    ),
    "approval key": (
        policy.approval_key_policy(),
        "27d3594bf429ff80951ba4c4f9953ece9823f742c689950d618264e33249d032",
    ),
    "authorize": (
        policy.policy_authorize(OBJECT, b"vmsec-use"),
        "885c1d0b240547304bea4851524cace9c2715f0bc99a5a2b8a5d0f0ba2d6ba79",
    ),
    "VM key": (
        policy.vm_key_policy(OBJECT),
        "a0d4025fd6830ce2df75df8a76d13d7d9fa711a4c4930c3581b222017d3daa38",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_digest_equals_the_one_of_a_tpm(name: str) -> None:
    got, wanted = VECTORS[name]
    assert got.hex() == wanted


@pytest.mark.parametrize("count", [0, 1, 9])
def test_or_takes_two_to_eight_branches(count: int) -> None:
    with pytest.raises(ValueError, match="2 to 8"):
        policy.policy_or(*[bytes(32)] * count)


def test_every_policy_is_bound_to_all_that_it_names() -> None:
    digests = {
        policy.use_policy(OBJECT),
        policy.use_policy(PARENT),
        policy.duplicate_policy(OBJECT, PARENT),
        policy.duplicate_policy(PARENT, OBJECT),
        policy.duplicate_policy(OBJECT, OBJECT),
        *policy.vm_key_branches(OBJECT),
        *policy.vm_key_branches(PARENT),
        policy.vm_key_policy(OBJECT),
        policy.vm_key_policy(PARENT),
    }
    assert len(digests) == 11
