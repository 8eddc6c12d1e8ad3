"""Names that come in over the bus."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.errors import SchemaError, StoreConflictError
from vmsec.kmc import identity
from vmsec.kmc.record import format_moment
from vmsec.kmc.retry import ATTEMPTS, retried

# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA,
# restricted, decrypt: the SRK template of the TCG provisioning guidance.
SRK = 0x00030472


def public(
    kind: int = 0x0023, name_algorithm: int = 0x000B, attributes: int = SRK
) -> bytes:
    area = struct.pack(">HHI", kind, name_algorithm, attributes) + bytes(70)
    return struct.pack(">H", len(area)) + area


def test_the_name_of_an_srk_is_algorithm_and_digest() -> None:
    blob = public()
    expected = b"\x00\x0b" + hashlib.sha256(blob[2:]).digest()
    assert identity.srk_name(blob) == expected
    assert len(expected) == identity.SRK_NAME_BYTES


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x00\x00",
        public()[:-1],
        public() + b"\x00",
        public(kind=0x0008),
        public(name_algorithm=0x000C),
        public(attributes=SRK & ~(1 << 1)),
        public(attributes=SRK & ~(1 << 4)),
        public(attributes=SRK & ~(1 << 16)),
        public(attributes=SRK & ~(1 << 17)),
        public(attributes=SRK | 1 << 18),
    ],
)
def test_a_key_that_could_leave_its_tpm_is_no_srk(blob: bytes) -> None:
    with pytest.raises(SchemaError, match="SRK"):
        identity.srk_name(blob)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_named(blob: bytes) -> None:
    try:
        name = identity.srk_name(blob)
    except SchemaError:
        return
    assert len(name) == identity.SRK_NAME_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6F1C8A52-37F1-4C0B-9F37-0D4C1A6F2B10",
        "6f1c8a5237f14c0b9f370d4c1a6f2b10",
        "{6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10}",
        "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b1",
        "../../etc/passwd",
    ],
)
def test_a_uuid_has_one_form(text: str) -> None:
    with pytest.raises(SchemaError, match="must be a UUID"):
        identity.require_uuid(text, what="a VM")


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a b", "a\n", "é", "a/b", "a" * 256]
)
def test_a_node_name_is_a_host_name(text: str) -> None:
    with pytest.raises(SchemaError):
        identity.require_node_name(text)
    assert identity.require_node_name("cmp-01.example") == "cmp-01.example"


@pytest.mark.parametrize("text", ["", "a b", "x=y", "a" * 65, "a\nb"])
def test_a_request_id_is_one_word_of_a_log_line(text: str) -> None:
    with pytest.raises(SchemaError):
        identity.require_request_id(text)
    assert identity.require_request_id("req-1:2") == "req-1:2"


def test_moments_are_written_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=zone)
    assert format_moment(moment) == "2026-01-02T01:04:05Z"
    assert format_moment(moment.astimezone(UTC)) == "2026-01-02T01:04:05Z"


def test_a_lost_conflict_is_decided_again_a_few_times() -> None:
    calls: list[int] = []

    def operation() -> str:
        calls.append(1)
        if len(calls) < ATTEMPTS:
            raise StoreConflictError("lost")
        return "won"

    assert retried(operation) == "won"

    def always() -> str:
        calls.append(1)
        raise StoreConflictError("lost")

    calls.clear()
    with pytest.raises(StoreConflictError):
        retried(always)
    assert len(calls) == ATTEMPTS
