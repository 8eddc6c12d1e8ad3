"""nova's notifications, as a running cloud sent them, and hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.controller.event import Notification, Placement
from vmsec.controller.nova import OFFLOADED, PLACED, STARTING, NovaHandler
from vmsec.errors import SchemaError

VM = "0f5a2c1e-9b1d-4d7e-8a6c-3f2b1c0d9e8f"
EVENTS = sorted(STARTING | PLACED | OFFLOADED)


def versioned(event: str, host: object = "vm", **change: Any) -> Notification:
    data: dict[str, Any] = {
        "uuid": VM,
        "host": host,
        "node": "vm",
        "state": "active",
        "task_state": None,
        "tenant_id": "6f70656e737461636b20697320646f776e",
    }
    return Notification(
        publisher="nova-compute:vm2",
        event=event,
        payload={
            "nova_object.data": data | change,
            "nova_object.name": "InstanceActionPayload",
            "nova_object.namespace": "nova",
            "nova_object.version": "1.8",
        },
    )


def unversioned(event: str, host: object = "vm") -> Notification:
    return Notification(
        publisher="compute.vm2",
        event=event,
        payload={
            "instance_id": VM,
            "display_name": "web",
            "host": host,
            "node": "vm",
            "state": "active",
            "state_description": "",
            "tenant_id": "6f70656e737461636b20697320646f776e",
        },
    )


def parse(notification: Notification) -> Placement | None:
    return NovaHandler().parse(notification)


@pytest.mark.parametrize("event", EVENTS)
def test_both_kinds_of_notification_say_the_same(event: str) -> None:
    placement = parse(versioned(event))
    assert placement == parse(unversioned(f"compute.{event}"))
    assert placement is not None
    assert placement.vm == VM


def test_a_start_is_where_the_publisher_is_not_where_the_payload_says() -> (
    None
):
    """On a revert the payload still names the destination."""
    event = versioned("instance.resize_revert.start", host="vm")
    assert parse(event) == Placement(vm=VM, node="vm2")


def test_the_end_of_a_resize_on_the_source_names_the_destination() -> None:
    event = unversioned("compute.instance.resize.end", host="vm2")
    assert parse(event) == Placement(vm=VM, node="vm2")


def test_an_offloaded_vm_is_on_no_node() -> None:
    event = versioned("instance.shelve_offload.end", host=None)
    assert parse(event) == Placement(vm=VM, node=None)


@pytest.mark.parametrize(
    "event",
    [
        "instance.delete.end",
        "instance.power_off.end",
        "instance.live_migration_pre.start",
        "instance.update",
        "compute.instance.exists",
        "compute.instance.delete.start",
        "keypair.create.end",
        "",
    ],
)
def test_other_events_say_nothing(event: str) -> None:
    assert parse(versioned(event)) is None


@pytest.mark.parametrize(
    "host", [None, "", "two words", "vm\n", "-vm", 5, "x" * 300, ["vm"]]
)
def test_a_host_that_is_none_is_refused(host: object) -> None:
    with pytest.raises(SchemaError, match="names no host"):
        parse(versioned("instance.create.end", host=host))


@pytest.mark.parametrize("vm", [None, "", "web", 7, f"{VM}0", {"uuid": VM}])
def test_a_vm_that_is_none_is_refused(vm: object) -> None:
    with pytest.raises(SchemaError, match="names no VM"):
        parse(versioned("instance.create.end", uuid=vm))


@pytest.mark.parametrize(
    "publisher", ["", "vm2", "api.vm2", "compute.", "nova-compute:a b"]
)
def test_a_start_from_no_compute_host_is_refused(publisher: str) -> None:
    event = Notification(
        publisher=publisher,
        event="instance.create.start",
        payload=versioned("instance.create.start").payload,
    )
    with pytest.raises(SchemaError, match="not from a compute host"):
        parse(event)


@given(
    st.sampled_from(EVENTS + [f"compute.{event}" for event in EVENTS]),
    st.text(),
    st.dictionaries(
        st.sampled_from(["nova_object.data", "instance_id", "host", "uuid"]),
        st.none()
        | st.text()
        | st.integers()
        | st.dictionaries(st.sampled_from(["uuid", "host"]), st.text()),
    ),
)
def test_any_payload_is_refused_or_gives_proper_names(
    event: str, publisher: str, payload: dict[str, object]
) -> None:
    notification = Notification(
        publisher=publisher, event=event, payload=payload
    )
    try:
        placement = parse(notification)
    except SchemaError:
        return
    assert placement is not None
    assert len(placement.vm) == 36
    assert placement.node is None or placement.node.isascii()
