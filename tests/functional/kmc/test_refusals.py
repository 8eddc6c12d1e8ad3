"""What the KMC refuses, in which words, and what is on record afterwards."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.functional.kmc.test_key_flow import DISK, VM, protect, report
from vmsec.errors import RemoteBusyError, RemoteRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.functional.kmc.conftest import Node
    from vmsec.keysync.client import KMCClient

UNKNOWN = "11111111-37f1-4c0b-9f37-0d4c1a6f2b10"


@pytest.fixture
def enrolled(client: KMCClient, nodes: dict[str, Node]) -> KMCClient:
    """The KMC with both nodes enrolled."""
    for node in nodes.values():
        client.node_enroll(node.name, node.srk_public)
    return client


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """The code and the text of a refusal."""
    with pytest.raises(RemoteRefusedError) as caught:
        call()
    return caught.value.remote_code, str(caught.value)


@pytest.mark.parametrize("method", ["manifest", "report"])
def test_a_vm_of_another_node_looks_like_one_that_does_not_exist(
    enrolled: KMCClient, method: str
) -> None:
    protect(enrolled)
    enrolled.acquire("node-a", VM, "r1")
    enrolled.report("node-a", report())

    def ask(vm: str) -> tuple[str, str]:
        if method == "manifest":
            return refusal(lambda: enrolled.manifest_get("node-b", vm, DISK))
        return refusal(
            lambda: enrolled.report("node-b", report(vm=vm, generation=9))
        )

    code, text = ask(VM)
    assert code == "custody.unknown"
    assert ask(UNKNOWN) == (code, text.replace(VM, UNKNOWN))
    assert refusal(lambda: enrolled.acquire("node-b", VM, "r2")) == (
        code,
        text,
    )
    assert enrolled.vm_show(VM).disks[0].generation == 1


def test_operators_ask_for_an_unknown_vm_in_vain_everywhere(
    enrolled: KMCClient,
) -> None:
    answers = {
        refusal(lambda: enrolled.vm_show(UNKNOWN)),
        refusal(lambda: enrolled.key_show(UNKNOWN)),
        refusal(lambda: enrolled.key_list(UNKNOWN)),
        refusal(lambda: enrolled.key_rotate(UNKNOWN)),
        refusal(lambda: enrolled.vm_place(UNKNOWN, "node-a")),
    }
    assert len(answers) == 1
    assert answers.pop()[0] == "custody.unknown"


def test_another_node_waits_until_the_holder_has_sealed(
    enrolled: KMCClient,
) -> None:
    protect(enrolled)
    enrolled.acquire("node-a", VM, "r1")
    enrolled.vm_place(VM, "node-b")
    with pytest.raises(RemoteBusyError, match="in use on node node-a"):
        enrolled.acquire("node-b", VM, "r2")
    enrolled.report("node-a", report())
    assert enrolled.acquire("node-b", VM, "r3").protected
    assert enrolled.vm_show(VM).node == "node-b"


def test_a_vm_that_was_offloaded_goes_to_the_next_starter(
    enrolled: KMCClient,
) -> None:
    protect(enrolled)
    enrolled.acquire("node-a", VM, "r1")
    enrolled.report("node-a", report())
    assert enrolled.vm_place(VM, None).node is None
    enrolled.acquire("node-b", VM, "r2")
    assert enrolled.vm_show(VM).node == "node-b"


def test_a_node_name_stays_with_its_tpm_until_it_is_cleared(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    first, other = nodes["a"].srk_public, nodes["b"].srk_public
    record = client.node_enroll("cmp-1", first)
    assert client.node_enroll("cmp-1", first) == record
    code, text = refusal(lambda: client.node_enroll("cmp-1", other))
    assert code == "custody.node-identity"
    assert "--clear" in text
    assert client.node_list() == (record,)
    cleared = client.node_enroll("cmp-1", other, clear=True)
    assert cleared.srk_name != record.srk_name
    assert client.node_list() == (cleared,)


def test_one_tpm_is_one_node_even_with_clear(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    record = client.node_enroll("cmp-1", nodes["a"].srk_public)
    for clear in (False, True):
        code, text = refusal(
            lambda clear=clear: client.node_enroll(  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                "cmp-2", nodes["a"].srk_public, clear=clear
            )
        )
        assert code == "custody.node-identity"
        assert "enrolled as node cmp-1" in text
    assert client.node_list() == (record,)


def test_keys_go_to_the_new_tpm_after_a_board_swap(
    client: KMCClient, nodes: dict[str, Node]
) -> None:
    protect(client)
    client.node_enroll("cmp-1", nodes["a"].srk_public)
    (grant,) = client.acquire("cmp-1", VM, "r1").grants
    key = nodes["a"].derive(grant)
    client.node_enroll("cmp-1", nodes["b"].srk_public, clear=True)
    (grant,) = client.acquire("cmp-1", VM, "r2").grants
    assert nodes["b"].derive(grant) == key


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"generation": 1, "manifest": b"other"}, "custody.generation"),
        ({"generation": 0}, "message.schema"),
        ({"state": "open"}, "message.schema"),
        ({"level": "all"}, "message.schema"),
        ({"target": ""}, "message.schema"),
        ({"disk": "vda"}, "message.schema"),
        ({"key_version": 9, "generation": 2}, "custody.state"),
    ],
)
def test_a_report_that_makes_no_sense_changes_nothing(
    enrolled: KMCClient, change: dict[str, Any], code: str
) -> None:
    protect(enrolled)
    enrolled.acquire("node-a", VM, "r1")
    enrolled.report("node-a", report())
    before = enrolled.vm_show(VM)
    assert (
        refusal(lambda: enrolled.report("node-a", report(**change)))[0] == code
    )
    assert enrolled.vm_show(VM) == before
    manifest = enrolled.manifest_get("node-a", VM, DISK)
    assert manifest == report().manifest


def test_a_disk_put_back_from_a_copy_is_noticed_and_repeats_are_not(
    enrolled: KMCClient,
) -> None:
    protect(enrolled)
    enrolled.acquire("node-a", VM, "r1")
    for generation in range(1, 6):
        each = report(generation=generation, manifest=b"%d" % generation)
        enrolled.report("node-a", each)
        enrolled.report("node-a", each)
        plain = report(generation=generation, state="plain", manifest=b"")
        enrolled.report("node-a", plain)
        again = partial(enrolled.report, "node-a", each)
        assert refusal(again)[0] == "custody.generation"
    assert enrolled.manifest_get("node-a", VM, DISK) == b"5"
    assert enrolled.manifest_get("node-a", VM, DISK, 3) == b"3"
    code, text = refusal(lambda: enrolled.manifest_get("node-a", VM, DISK, 2))
    assert code == "seal.manifest"
    assert "no manifest is kept at 2" in text


@pytest.mark.parametrize(
    "change",
    [{"level": "all"}, {"node": "no node"}],
)
def test_a_protect_that_makes_no_sense_makes_no_key(
    enrolled: KMCClient, change: dict[str, Any]
) -> None:
    assert refusal(lambda: protect(enrolled, **change))[0] == "message.schema"
    assert refusal(lambda: protect(enrolled, "web"))[0] == "message.schema"
    assert enrolled.key_list() == ()


def test_protecting_again_changes_words_but_neither_key_nor_place(
    enrolled: KMCClient,
) -> None:
    first = protect(enrolled, node="node-a")
    again = protect(enrolled, name="shop", level="boot", node="node-b")
    assert (again.name, again.level) == ("shop", "boot")
    assert (again.node, again.key_version) == ("node-a", 1)
    assert again.created_at == first.created_at


def test_neither_keys_nor_manifests_reach_the_log(
    enrolled: KMCClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "vmsec"):
        protect(enrolled)
        (grant,) = enrolled.acquire("node-a", VM, "r1").grants
        enrolled.report("node-a", report())
        enrolled.manifest_get("node-a", VM, DISK)
    lines = "\n".join(record.getMessage() for record in caplog.records)
    assert "decision=granted action=acquire" in lines
    for blob in (grant.duplicate, grant.seed, report().manifest):
        assert blob.hex() not in lines
        assert repr(blob) not in lines
