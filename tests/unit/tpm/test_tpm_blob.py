"""Key blobs from anywhere: one encoding, the whole of it, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.errors import SchemaError
from vmsec.tpm.blob import MAX_BLOB_BYTES, parse
from vmsec.tpm.objects import (
    SRKAlgorithm,
    approval_key_template,
    is_approval_key,
    is_storage_key,
    is_vm_key,
    srk_template,
    vm_key_template,
)
from vmsec.tpm.tss import (
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMT_SIGNATURE,
)

POLICY = bytes(range(32))
PUBLICS = {
    "ecc": srk_template(SRKAlgorithm.ECC_P256),
    "rsa": srk_template(SRKAlgorithm.RSA_2048),
    "approval": approval_key_template(POLICY),
    "vm": vm_key_template(POLICY),
}
KINDS = (TPM2B_PUBLIC, TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET, TPMT_SIGNATURE)


@pytest.mark.parametrize("name", PUBLICS)
def test_what_was_marshalled_parses(name: str) -> None:
    data = bytes(PUBLICS[name].marshal())
    assert bytes(parse(TPM2B_PUBLIC, data, what="x").marshal()) == data


@pytest.mark.parametrize("name", PUBLICS)
def test_every_truncation_is_refused(name: str) -> None:
    data = bytes(PUBLICS[name].marshal())
    for length in range(len(data)):
        with pytest.raises(SchemaError, match="thing: "):
            parse(TPM2B_PUBLIC, data[:length], what="thing")


@pytest.mark.parametrize("name", PUBLICS)
def test_trailing_bytes_are_refused(name: str) -> None:
    data = bytes(PUBLICS[name].marshal())
    with pytest.raises(SchemaError):
        parse(TPM2B_PUBLIC, data + b"\0", what="thing")


@pytest.mark.parametrize(
    "data", [None, "text", bytearray(4), 7, b"", bytes(MAX_BLOB_BYTES + 1)]
)
def test_what_is_no_bytes_or_too_long_is_refused(data: Any) -> None:
    with pytest.raises(SchemaError, match="1024"):
        parse(TPM2B_PRIVATE, data, what="thing")


@given(st.sampled_from(KINDS), st.binary(max_size=1100))
def test_random_bytes_parse_to_themselves_or_are_refused(
    kind: Any, data: bytes
) -> None:
    try:
        value = parse(kind, data, what="thing")
    except SchemaError:
        return
    assert bytes(value.marshal()) == data


@given(st.sampled_from(sorted(PUBLICS)), st.data())
def test_damaged_public_areas_parse_to_themselves_or_are_refused(
    name: str, data: st.DataObject
) -> None:
    blob = bytearray(PUBLICS[name].marshal())
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    try:
        value = parse(TPM2B_PUBLIC, bytes(blob), what="thing")
    except SchemaError:
        return
    assert bytes(value.marshal()) == bytes(blob)


def copy_of(name: str) -> Any:
    return TPM2B_PUBLIC.unmarshal(PUBLICS[name].marshal())[0]


@pytest.mark.parametrize("name", ["ecc", "rsa"])
@pytest.mark.parametrize("bit", list(TPMA_OBJECT), ids=str)
def test_a_storage_key_with_any_attribute_changed_is_none(
    name: str, bit: TPMA_OBJECT
) -> None:
    public = copy_of(name)
    assert is_storage_key(public)
    public.publicArea.objectAttributes ^= bit
    assert not is_storage_key(public)


@pytest.mark.parametrize("bit", list(TPMA_OBJECT), ids=str)
def test_a_vm_key_with_any_attribute_changed_is_none(
    bit: TPMA_OBJECT,
) -> None:
    public = copy_of("vm")
    assert is_vm_key(public, POLICY)
    public.publicArea.objectAttributes ^= bit
    assert not is_vm_key(public, POLICY)


def test_a_policy_added_or_exchanged_is_noticed() -> None:
    storage, key, approval = copy_of("ecc"), copy_of("vm"), copy_of("approval")
    storage.publicArea.authPolicy = POLICY
    assert not is_storage_key(storage)
    assert not is_vm_key(key, bytes(32))
    assert is_approval_key(approval, POLICY)
    assert not is_approval_key(approval, bytes(32))


def test_other_algorithms_are_noticed() -> None:
    storage, rsa = copy_of("ecc"), copy_of("rsa")
    storage.publicArea.nameAlg = TPM2_ALG.SHA384
    assert not is_storage_key(storage)
    rsa.publicArea.parameters.rsaDetail.keyBits = 1024
    assert not is_storage_key(rsa)
    weak = copy_of("ecc")
    weak.publicArea.parameters.eccDetail.symmetric.algorithm = TPM2_ALG.NULL
    assert not is_storage_key(weak)
    for name in ("approval", "vm"):
        assert not is_storage_key(copy_of(name))
        assert not is_vm_key(copy_of("ecc"), POLICY)
