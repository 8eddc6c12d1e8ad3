"""Notifications of a real oslo.messaging Notifier reach the KMC's store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import oslo_messaging
import pytest

from vmsec.conf.controller import ControllerSettings
from vmsec.controller.service import ControllerService, load_handlers
from vmsec.errors import ConfigurationError
from vmsec.keysync.client import KMCClient
from vmsec.keysync.transport import open_notification_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VM = "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
OTHER = "7a1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
SETTINGS = ControllerSettings(
    transport_url=None,
    exchange="nova",
    topics=("notifications", "versioned_notifications"),
    pool="vmsec",
    handlers=("nova",),
)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


@pytest.fixture
def bus() -> Iterator[Any]:
    transport = open_notification_transport()
    # As nova does: its notifications go to its own exchange.
    transport.conf.set_override("control_exchange", "nova")
    transport = open_notification_transport(transport.conf)
    yield transport
    transport.cleanup()


@pytest.fixture
def controller(client: KMCClient, bus: Any) -> Iterator[ControllerService]:
    service = ControllerService(SETTINGS, client, bus)
    service.start()
    yield service
    service.stop()
    service.wait()


def notifier(bus: Any, topic: str, publisher: str) -> Any:
    return oslo_messaging.Notifier(
        bus, publisher_id=publisher, driver="messaging", topics=[topic]
    )


def protect(client: KMCClient) -> None:
    client.vm_protect(VM, name="web", project="shop", level="metadata")


def test_an_unversioned_notification_places_a_protected_vm(
    client: KMCClient, bus: Any, controller: ControllerService
) -> None:
    protect(client)
    notifier(bus, "notifications", "compute.vm2").info(
        {}, "compute.instance.create.end", {"instance_id": VM, "host": "vm2"}
    )
    wait_until(lambda: client.vm_show(VM).node == "vm2")
    assert controller.counts() == {"placed": 1}


def test_a_versioned_notification_places_a_protected_vm(
    client: KMCClient, bus: Any, controller: ControllerService
) -> None:
    protect(client)
    payload = {"nova_object.data": {"uuid": VM, "host": "vm3"}}
    notifier(bus, "versioned_notifications", "nova-compute:vm3").info(
        {}, "instance.unshelve.end", payload
    )
    wait_until(lambda: client.vm_show(VM).node == "vm3")
    assert controller.counts() == {"placed": 1}


def test_what_is_unprotected_malformed_or_deleted_changes_nothing(
    client: KMCClient, bus: Any, controller: ControllerService
) -> None:
    protect(client)
    client.vm_place(VM, "vm1")
    before = client.vm_show(VM)
    send = notifier(bus, "notifications", "compute.vm2")
    create = "compute.instance.create.end"
    send.info({}, create, {"instance_id": OTHER, "host": "vm2"})
    send.info({}, create, {"instance_id": VM, "host": "no host"})
    send.info({}, create, ["no", "payload"])
    send.info({}, "compute.instance.delete.end", {"instance_id": VM})
    wait_until(lambda: sum(controller.counts().values()) == 4)
    assert controller.counts() == {
        "unprotected": 1,
        "malformed": 2,
        "ignored": 1,
    }
    assert client.vm_list() == (before,)


def test_a_notification_is_not_redelivered_while_the_kmc_is_away(
    bus: Any, transport: Any
) -> None:
    controller = ControllerService(SETTINGS, KMCClient(transport, 1), bus)
    controller.start()
    try:
        notifier(bus, "notifications", "compute.vm2").info(
            {},
            "compute.instance.create.end",
            {"instance_id": VM, "host": "vm2"},
        )
        wait_until(lambda: controller.counts() == {"failed": 1})
        time.sleep(0.5)
        assert controller.counts() == {"failed": 1}
    finally:
        controller.stop()


def test_a_handler_that_is_not_installed_is_named() -> None:
    assert list(load_handlers(["nova"])) == ["nova"]
    with pytest.raises(ConfigurationError, match="absent cannot be loaded"):
        load_handlers(["nova", "absent"])
    with pytest.raises(ConfigurationError, match="none cannot be loaded"):
        load_handlers([])
