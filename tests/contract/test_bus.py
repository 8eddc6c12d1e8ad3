"""What clients and servers may rely on, whatever bus is between them."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from typing import TYPE_CHECKING, Any

import oslo_messaging
import pytest

from vmsec.errors import (
    AccessDeniedError,
    ConfigurationError,
    LeaseHeldError,
    PeerTimeoutError,
    RemoteBusyError,
    RemoteRefusedError,
    SchemaError,
    SyncError,
    TPMError,
    UnknownKeyError,
)
from vmsec.keysync.client import AgentClient, KMCClient
from vmsec.keysync.messages import (
    AGENT_TOPIC,
    KMC_TOPIC,
    AgentJob,
    DiskReport,
    NodeRecord,
)
from vmsec.keysync.transport import (
    EXCHANGE,
    RPCServer,
    open_transport,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

VM = "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
HIDDEN = "the pin is 1234"
REPORT = DiskReport(
    vm=VM,
    disk=VM,
    target="vda",
    state="sealed",
    generation=3,
    key_version=1,
    level="boot",
    sealed_bytes=1,
    disk_bytes=2,
    duration_ms=3,
    manifest=bytes(range(256)) * 4096,
)


class Endpoint:
    """A KMC that refuses in every way."""

    target = oslo_messaging.Target(exchange=EXCHANGE, version="1.0")

    def __init__(self) -> None:
        self.reports: list[DiskReport] = []

    @rpc_method
    def node_list(self) -> tuple[NodeRecord, ...]:
        return (
            NodeRecord(
                name="a", srk_name=b"\x00\xff", state="e", enrolled_at="t"
            ),
        )

    @rpc_method
    def report(self, *, node: str, report: DiskReport) -> None:
        assert node == "a"
        self.reports.append(report)

    @rpc_method
    def manifest_get(
        self, *, node: str, vm: str, disk: str, generation: int | None = None
    ) -> bytes:
        return f"{node}{vm}{disk}{generation}".encode()

    @rpc_method
    def key_list(self, *, vm: str | None = None) -> tuple[NodeRecord, ...]:
        error: dict[str | None, Exception] = {
            "unknown": UnknownKeyError("VM unknown: no key"),
            "busy": LeaseHeldError("VM busy: on node b"),
            "denied": AccessDeniedError(HIDDEN),
            "tpm": TPMError(HIDDEN),
            "bug": ZeroDivisionError(HIDDEN),
        }
        raise error[vm]

    @rpc_method
    def vm_list(self) -> tuple[NodeRecord, ...]:
        time.sleep(3)
        return ()

    def key_rotate(self, _context: object, *, vm: str) -> None:
        """Public, but not on the bus."""
        raise AssertionError(vm)


class Agent:
    """An agent that tells its name."""

    target = oslo_messaging.Target(exchange=EXCHANGE, version="1.0")

    def __init__(self, name: str) -> None:
        self._name = name

    @rpc_method
    def vm_seal(self, *, vm: str) -> AgentJob:
        return AgentJob(vm=vm, disks=(), notes=(self._name,))

    @rpc_method
    def self_test(self) -> dict[str, str | int | bool | None]:
        return {"name": self._name, "hot": 0, "hook": True, "tpm": None}


@pytest.fixture
def transport(bus_url: str) -> Iterator[Any]:
    bus = open_transport(None, bus_url)
    yield bus
    bus.cleanup()


@pytest.fixture
def endpoint(transport: Any) -> Iterator[Endpoint]:
    made = Endpoint()
    server = RPCServer(
        transport, topic=KMC_TOPIC, server="kmc-1", endpoint=made
    )
    server.start(threads=4)
    yield made
    server.stop()


@pytest.fixture
def client(transport: Any, endpoint: Endpoint) -> KMCClient:
    assert endpoint is not None
    return KMCClient(transport, 20)


def test_values_come_back_whole(client: KMCClient) -> None:
    (node,) = client.node_list()
    assert node.srk_name == b"\x00\xff"
    assert client.manifest_get("a", "b", "c") == b"abcNone"
    assert client.manifest_get("a", "b", "c", 7) == b"abc7"


def test_a_manifest_of_a_mebibyte_arrives(
    client: KMCClient, endpoint: Endpoint
) -> None:
    client.report("a", REPORT)
    assert endpoint.reports == [REPORT]


def test_many_calls_at_once_get_each_its_own_answer(client: KMCClient) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda n: client.manifest_get("a", str(n), "-", n), range(40)
        )
        assert list(answers) == [f"a{n}-{n}".encode() for n in range(40)]


@pytest.mark.parametrize(
    ("case", "kind", "code", "status", "text"),
    [
        ("unknown", RemoteRefusedError, "custody.unknown", 40, "VM unknown"),
        ("busy", RemoteBusyError, "custody.lease", 40, "on node b"),
        ("denied", RemoteRefusedError, "custody.denied", 40, "not available"),
        ("tpm", RemoteRefusedError, "tpm.error", 50, "could not serve"),
        ("bug", RemoteRefusedError, "vmsec.error", 1, "Incident "),
    ],
)
def test_a_refusal_comes_back_as_one_and_tells_no_more_than_it_may(
    client: KMCClient,
    case: str,
    kind: type[RemoteRefusedError],
    code: str,
    status: int,
    text: str,
) -> None:
    with pytest.raises(RemoteRefusedError, match=text) as caught:
        client.key_list(case)
    assert type(caught.value) is kind
    assert (caught.value.remote_code, caught.value.status) == (code, status)
    assert HIDDEN not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_bug_is_logged_once_under_the_incident_that_was_answered(
    client: KMCClient, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(RemoteRefusedError) as e,
    ):
        client.key_list("bug")
    incident = str(e.value).split()[-1].rstrip(".")
    records = [r for r in caplog.records if incident in r.getMessage()]
    assert len(records) == 1
    assert records[0].exc_info is not None


def test_a_method_that_is_not_exposed_cannot_be_called(
    client: KMCClient, endpoint: Endpoint
) -> None:
    with pytest.raises(SyncError, match="could not be delivered"):
        client.key_rotate(VM)
    assert endpoint.reports == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"node": "a"},
        {"node": "a", "report": {}},
        {"node": "a", "report": None, "more": 1},
        {"node": 1, "report": "x"},
    ],
)
def test_hostile_arguments_are_refused_before_the_method(
    transport: Any, endpoint: Endpoint, arguments: dict[str, object]
) -> None:
    raw = oslo_messaging.get_rpc_client(
        transport,
        oslo_messaging.Target(
            exchange=EXCHANGE, topic=KMC_TOPIC, version="1.0"
        ),
        timeout=20,
    )
    answer = raw.call({}, "report", **arguments)
    assert answer["error"]["code"] == SchemaError.code
    assert endpoint.reports == []


def test_a_slow_service_times_out_and_the_error_says_what_to_check(
    transport: Any, endpoint: Endpoint
) -> None:
    assert endpoint is not None
    started = time.monotonic()
    with pytest.raises(PeerTimeoutError, match="vmsec-kmc runs") as caught:
        KMCClient(transport, 1).vm_list()
    assert time.monotonic() - started < 3
    assert "did not answer vm_list in 1 s" in str(caught.value)


def test_an_absent_service_times_out(transport: Any) -> None:
    with pytest.raises(PeerTimeoutError, match="agent of node n9"):
        AgentClient(transport, "n9", 1).vm_seal(VM)


def test_each_agent_hears_its_own_name_only(transport: Any) -> None:
    servers = [
        RPCServer(
            transport, topic=AGENT_TOPIC, server=name, endpoint=Agent(name)
        )
        for name in ("n1", "n2")
    ]
    for server in servers:
        server.start()
    try:
        for name in ("n1", "n2", "n1"):
            agent = AgentClient(transport, name, 20)
            assert agent.vm_seal(VM).notes == (name,)
            assert agent.self_test() == {
                "name": name,
                "hot": 0,
                "hook": True,
                "tpm": None,
            }
    finally:
        for server in servers:
            server.stop()


def test_an_absent_broker_does_not_hang_the_caller() -> None:
    """The library alone was seen blocked after thirty seconds."""
    bus = open_transport(None, "rabbit://guest:guest@127.0.0.1:1//")
    started = time.monotonic()
    with pytest.raises(SyncError):
        KMCClient(bus, 1).node_list()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nosuch://u:hunter2@h/",
        "rabbit:u:hunter2",
        "rabbit://u:hunter2@h:x/",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_transport(None, url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
