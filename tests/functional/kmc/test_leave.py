"""A live migration moves the right to hold a VM from node to node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmsec.errors import RemoteRefusedError

if TYPE_CHECKING:
    from tests.functional.kmc.conftest import Node
    from vmsec.keysync.client import KMCClient

VM = "2f0a4f0e-9a3c-4b0e-8d55-6f0c7f3f5a01"


@pytest.fixture
def held(client: KMCClient, nodes: dict[str, Node]) -> KMCClient:
    """A VM that node a holds; node b is enrolled too."""
    for node in nodes.values():
        client.node_enroll(node.name, node.srk_public)
    client.vm_protect(VM, name="web", project="shop", level="metadata")
    client.acquire("node-a", VM, "r1")
    return client


def test_next_node_gets_the_key_once_the_old_one_let_go(
    held: KMCClient,
) -> None:
    with pytest.raises(RemoteRefusedError):
        held.acquire("node-b", VM, "r2")
    held.vm_leave("node-a", VM)
    held.vm_leave("node-a", VM)
    assert held.acquire("node-b", VM, "r3").protected
    assert held.vm_show(VM).node == "node-b"
    with pytest.raises(RemoteRefusedError):
        held.acquire("node-a", VM, "r4")


def test_placement_by_the_controller_outlives_the_leaving(
    held: KMCClient,
) -> None:
    held.vm_place(VM, "node-b")
    held.vm_leave("node-a", VM)
    assert held.vm_show(VM).node == "node-b"


def test_no_node_lets_go_for_another(held: KMCClient) -> None:
    held.vm_leave("node-b", VM)
    with pytest.raises(RemoteRefusedError):
        held.acquire("node-b", VM, "r2")
    assert held.acquire("node-a", VM, "r3").protected


@pytest.mark.parametrize("node", ["node-x", "no name!"])
def test_leaving_is_refused_to_unknown_nodes(
    held: KMCClient, node: str
) -> None:
    with pytest.raises(RemoteRefusedError):
        held.vm_leave(node, VM)
