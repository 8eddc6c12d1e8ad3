"""The wire form: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.errors import SchemaError
from vmsec.keysync import wire
from vmsec.keysync.messages import (
    AcquireAnswer,
    AgentJob,
    DiskRecord,
    DiskReport,
    KeyGrant,
    KeyRecord,
    NodeRecord,
    VMRecord,
)

TEXT = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40
)
NUMBER = st.integers(0, wire.MAX_INTEGER)
DISK = st.builds(
    DiskRecord,
    disk=TEXT,
    target=TEXT,
    state=TEXT,
    generation=NUMBER,
    key_version=NUMBER,
    level=TEXT,
    sealed_bytes=NUMBER,
    disk_bytes=NUMBER,
    updated_at=TEXT,
)
REPORT = st.builds(
    DiskReport,
    vm=TEXT,
    disk=TEXT,
    target=TEXT,
    state=TEXT,
    generation=NUMBER,
    key_version=NUMBER,
    level=TEXT,
    sealed_bytes=NUMBER,
    disk_bytes=NUMBER,
    duration_ms=NUMBER,
    manifest=st.binary(max_size=100),
)
BLOB = st.binary(max_size=60)
GRANT = st.builds(
    KeyGrant,
    vm=TEXT,
    version=NUMBER,
    public=BLOB,
    duplicate=BLOB,
    seed=BLOB,
    approval=BLOB,
    approval_public=BLOB,
)
MESSAGES = st.one_of(
    DISK,
    REPORT,
    GRANT,
    st.builds(
        NodeRecord, name=TEXT, srk_name=BLOB, state=TEXT, enrolled_at=TEXT
    ),
    st.builds(
        KeyRecord,
        vm=TEXT,
        version=NUMBER,
        state=TEXT,
        custody=TEXT,
        created_at=TEXT,
    ),
    st.builds(
        VMRecord,
        vm=TEXT,
        name=TEXT,
        project=TEXT,
        node=st.none() | TEXT,
        level=TEXT,
        key_version=NUMBER,
        state=TEXT,
        disks=st.lists(DISK, max_size=3).map(tuple),
        created_at=TEXT,
    ),
    st.builds(
        AcquireAnswer,
        vm=TEXT,
        protected=st.booleans(),
        level=TEXT,
        key_version=NUMBER,
        grants=st.lists(GRANT, max_size=2).map(tuple),
    ),
    st.builds(
        AgentJob,
        vm=TEXT,
        disks=st.lists(REPORT, max_size=2).map(tuple),
        notes=st.lists(TEXT, max_size=3).map(tuple),
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
NODE = NodeRecord(
    name="a", srk_name=b"\x00\x0b", state="enrolled", enrolled_at="now"
)


@given(MESSAGES)
def test_every_message_comes_back_from_json_as_it_was(message: Any) -> None:
    text = json.dumps(wire.encode(message))
    assert wire.decode(type(message), json.loads(text), what="m") == message


@given(JSON, st.sampled_from([NodeRecord, VMRecord, AcquireAnswer, AgentJob]))
def test_hostile_json_is_refused_or_is_the_one_form(
    value: Any, kind: type
) -> None:
    try:
        message: Any = wire.decode(kind, value, what="m")
    except SchemaError:
        return
    assert wire.encode(message) == value


@given(MESSAGES, st.data())
def test_one_field_replaced_by_junk_never_slips_through(
    message: Any, data: st.DataObject
) -> None:
    form = wire.encode(message)
    name = data.draw(st.sampled_from(sorted(form)))
    form[name] = data.draw(JSON)
    try:
        decoded = wire.decode(type(message), form, what="m")
    except SchemaError:
        return
    assert wire.encode(decoded) == form


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extra": 1}, "unknown fields"),
        ({"name": 5}, "name: has the wrong type"),
        ({"name": None}, "name: has the wrong type"),
        ({"name": "two\nlines"}, "control characters"),
        ({"name": "\ud800"}, "control characters"),
        ({"name": "x" * (wire.MAX_TEXT + 1)}, "longer than"),
        ({"srk_name": "AA"}, "not base64"),
        ({"srk_name": "AAB="}, "not canonical"),
        ({"srk_name": "A\nAA="}, "not base64"),
        ({"srk_name": "é==="}, "not base64"),
        ({"srk_name": 7}, "wrong type"),
    ],
)
def test_a_wrong_field_is_named_but_its_value_is_not_repeated(
    change: dict[str, Any], problem: str
) -> None:
    form = wire.encode(NODE) | change
    with pytest.raises(SchemaError, match=problem) as caught:
        wire.decode(NodeRecord, form, what="node")
    assert len(str(caught.value)) < 100


def test_a_missing_field_is_named() -> None:
    form = wire.encode(NODE)
    del form["state"]
    with pytest.raises(SchemaError, match=r"node: NodeRecord misses \['st"):
        wire.decode(NodeRecord, form, what="node")


@pytest.mark.parametrize("number", [-1, 1 << 63, True, 1.0, "1"])
def test_a_number_is_an_integer_that_a_database_holds(number: Any) -> None:
    with pytest.raises(SchemaError):
        wire.decode(int, number, what="n")


def test_too_many_entries_are_refused_both_ways() -> None:
    many = (0,) * (wire.MAX_ITEMS + 1)
    with pytest.raises(SchemaError, match="more than"):
        wire.encode(many)
    with pytest.raises(SchemaError, match="more than"):
        wire.decode(tuple[int, ...], list(many), what="list")


def test_a_blob_too_large_for_the_broker_is_refused_both_ways() -> None:
    with pytest.raises(SchemaError, match="larger than"):
        wire.encode(bytes(wire.MAX_BLOB_BYTES + 1))
    text = "A" * (wire.MAX_BLOB_BYTES * 4 // 3 + 8)
    with pytest.raises(SchemaError, match="larger than"):
        wire.decode(bytes, text, what="blob")


def test_nesting_without_end_is_refused() -> None:
    deep: Any = ()
    for _ in range(wire.MAX_DEPTH + 2):
        deep = (deep,)
    with pytest.raises(SchemaError, match="too deeply"):
        wire.encode(deep)


def test_maps_and_unions_of_plain_values_travel() -> None:
    kind = dict[str, str | int | bool | None]
    value = {"hook": "installed", "hot": 0, "libvirt": True, "tpm": None}
    assert wire.decode(kind, wire.encode(value), what="v") == value
    with pytest.raises(SchemaError):
        wire.decode(kind, {"hook": 1.5}, what="v")
    with pytest.raises(SchemaError):
        wire.decode(kind, {"a\x00b": "c"}, what="v")


def test_a_type_without_wire_form_is_a_programmers_mistake() -> None:
    with pytest.raises(TypeError):
        wire.encode({1.5})
    with pytest.raises(TypeError):
        wire.decode(float, 1.5, what="f")
