"""A VM key from its making in the KMC's TPM to its use in a node's."""

from __future__ import annotations

import concurrent.futures
import logging
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from vmsec.errors import PeerTimeoutError, RemoteRefusedError, TPMError
from vmsec.keysync.client import KMCClient
from vmsec.keysync.messages import DiskReport
from vmsec.kmc.service import KMCService

if TYPE_CHECKING:
    from tests.functional.kmc.conftest import Node
    from vmsec.conf.kmc import KMCSettings
    from vmsec.keysync.messages import VMRecord

VM = "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
DISK = "0b6f0e1c-3a34-4a7c-8f0d-2b8f4f5c9d11"


def protect(client: KMCClient, vm: str = VM, **change: Any) -> VMRecord:
    facts = {"name": "web", "project": "shop", "level": "metadata"}
    return client.vm_protect(vm, **(facts | change))


def report(**change: Any) -> DiskReport:
    facts: dict[str, Any] = {
        "vm": VM,
        "disk": DISK,
        "target": "vda",
        "state": "sealed",
        "generation": 1,
        "key_version": 1,
        "level": "metadata",
        "sealed_bytes": 4096,
        "disk_bytes": 1 << 30,
        "duration_ms": 12,
        "manifest": b"manifest of generation 1",
    }
    return DiskReport(**(facts | change))


def test_a_protected_vms_key_reaches_the_nodes_tpm_and_is_the_same_again(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    node = nodes["a"]
    record = protect(client)
    assert (record.key_version, record.node) == (1, None)
    client.node_enroll(node.name, node.srk_public)
    answer = client.acquire(node.name, VM, "r1")
    assert answer.protected
    assert answer.key_version == 1
    (grant,) = answer.grants
    key = node.derive(grant)
    assert len(key) == 32
    (again,) = client.acquire(node.name, VM, "r2").grants
    assert again.duplicate != grant.duplicate
    assert node.derive(again) == key
    assert client.vm_show(VM).node == node.name


def test_a_grant_for_one_node_is_useless_to_another(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    protect(client)
    client.node_enroll(nodes["a"].name, nodes["a"].srk_public)
    (grant,) = client.acquire(nodes["a"].name, VM, "r1").grants
    with pytest.raises(TPMError):
        nodes["b"].derive(grant)


def test_an_unprotected_vm_is_answered_as_such(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    answer = client.acquire(nodes["a"].name, VM, "r1")
    assert (answer.protected, answer.grants) == (False, ())
    assert client.vm_list() == ()


def test_keys_survive_a_restart_of_the_kmc(
    settings: KMCSettings, transport: Any, nodes: dict[str, Node]
) -> None:
    node, client = nodes["a"], KMCClient(transport, 30)
    kmc = KMCService(settings, transport)
    kmc.start()
    protect(client)
    client.node_enroll(node.name, node.srk_public)
    (grant,) = client.acquire(node.name, VM, "r1").grants
    key = node.derive(grant)
    kmc.stop()
    kmc.wait()
    with pytest.raises(PeerTimeoutError, match="vmsec-kmc runs"):
        KMCClient(transport, 1).vm_list()
    kmc = KMCService(settings, transport)
    kmc.start()
    try:
        (grant,) = client.acquire(node.name, VM, "r2").grants
        assert node.derive(grant) == key
        assert client.node_list()[0].name == node.name
    finally:
        kmc.stop()


def test_two_protects_at_once_make_one_key(client: KMCClient) -> None:
    vms = [str(uuid.uuid4()) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda vm: protect(client, vm), vms * 4))
    assert {record.key_version for record in records} == {1}
    assert [key.version for key in client.key_list()] == [1] * 4
    assert {vm.vm for vm in client.vm_list()} == set(vms)


def test_two_nodes_that_start_an_unplaced_vm_at_once_one_wins(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    protect(client)
    for node in nodes.values():
        client.node_enroll(node.name, node.srk_public)

    def start(node: Node) -> str:
        try:
            client.acquire(node.name, VM, "r1")
        except RemoteRefusedError as err:
            return err.remote_code
        return node.name

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = set(pool.map(start, nodes.values()))
    winner = client.vm_show(VM).node
    assert outcomes == {winner, "custody.unknown"}


def test_after_rotation_the_old_key_goes_along_until_no_disk_needs_it(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    node = nodes["a"]
    protect(client)
    client.node_enroll(node.name, node.srk_public)
    (grant,) = client.acquire(node.name, VM, "r1").grants
    old = node.derive(grant)
    client.report(node.name, report())
    assert client.key_rotate(VM).version == 2
    assert client.key_rotate(VM).version == 2, "not used yet, new enough"
    states = [(key.version, key.state) for key in client.key_list(VM)]
    assert states == [(1, "deactivated"), (2, "active")]
    answer = client.acquire(node.name, VM, "r2")
    assert answer.key_version == 2
    keys = {grant.version: node.derive(grant) for grant in answer.grants}
    assert keys[1] == old
    assert keys[2] != old
    client.report(
        node.name, report(generation=2, key_version=2, manifest=b"two")
    )
    versions = [
        grant.version for grant in client.acquire(node.name, VM, "r3").grants
    ]
    assert versions == [2]
    assert client.key_rotate(VM).version == 3


def test_a_refused_start_records_nothing_and_is_one_line_in_the_log(
    client: KMCClient,
    nodes: dict[str, Node],
    caplog: pytest.LogCaptureFixture,
) -> None:
    protect(client)
    with (
        caplog.at_level(logging.INFO, "vmsec.kmc.decision"),
        pytest.raises(RemoteRefusedError, match="not enrolled") as caught,
    ):
        client.acquire(nodes["a"].name, VM, "r-7")
    assert caught.value.remote_code == "custody.unknown-node"
    assert client.vm_show(VM).node is None
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if record.name == "vmsec.kmc.decision"
    ]
    assert line.startswith(
        f"decision=refused action=acquire vm={VM} node={nodes['a'].name} "
        "version=- request=r-7 reason=custody.unknown-node: "
    )


def test_a_held_key_is_decided_on_but_not_migrated_again(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    protect(client)
    node = nodes["a"]
    client.node_enroll(node.name, node.srk_public)
    (grant,) = client.acquire(node.name, VM, "r1").grants
    answer = client.acquire(node.name, VM, "r2", (grant.version,))
    assert answer.protected
    assert answer.key_version == grant.version
    assert answer.grants == ()
    client.key_rotate(VM)
    (newer,) = client.acquire(node.name, VM, "r3", (grant.version,)).grants
    assert newer.version == grant.version + 1
