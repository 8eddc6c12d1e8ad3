"""``vmsec-allinone``: one process, from the first start to a kill -9."""

from __future__ import annotations

import os
import signal
import stat
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import require_one_line, run_vmsec, vmsec_json
from tests.support.daemon import DaemonUnderTest
from tests.support.tools import require_tool

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

VM = "6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11"
CONFIGURATION, CUSTODY = 10, 40


@pytest.fixture(scope="module")
def allinone(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DaemonUnderTest]:
    """One that all tests of this module may restart."""
    require_tool("swtpm", "swtpm_setup")
    with DaemonUnderTest(tmp_path_factory.mktemp("allinone")) as daemon:
        yield daemon


def ask(daemon: DaemonUnderTest, *words: str) -> Any:
    return vmsec_json("--api-socket", daemon.socket, *words)


def test_it_enrolls_its_own_node(allinone: DaemonUnderTest) -> None:
    (node,) = ask(allinone, "node", "list")
    assert node["name"] == "testnode"
    assert node["state"] == "enrolled"
    # A TPM Name: the algorithm (SHA-256 is 0x000b) and the digest.
    assert node["srk_name"].startswith("000b")
    assert len(bytes.fromhex(node["srk_name"])) == 34


def test_a_protected_vm_gets_its_key_at_once(
    allinone: DaemonUnderTest,
) -> None:
    vm = ask(allinone, "vm", "protect", VM, "--name", "web1")
    assert (vm["vm"], vm["name"], vm["level"]) == (VM, "web1", "metadata")
    assert ask(allinone, "vm", "show", VM) == vm
    assert VM in {row["vm"] for row in ask(allinone, "vm", "list")}
    (key,) = ask(allinone, "key", "list", "--vm", VM)
    assert (key["version"], key["state"]) == (1, "active")
    assert ask(allinone, "key", "show", VM, "--key-version", "1") == key


def test_protecting_twice_is_protecting_once(
    allinone: DaemonUnderTest,
) -> None:
    first = ask(allinone, "vm", "protect", VM, "--name", "web1")
    assert ask(allinone, "vm", "protect", VM, "--name", "web1") == first
    assert len(ask(allinone, "key", "list", "--vm", VM)) == 1


def test_enrolling_again_with_the_same_tpm_changes_nothing(
    allinone: DaemonUnderTest,
) -> None:
    (before,) = ask(allinone, "node", "list")
    after = ask(allinone, "node", "enroll", "testnode")
    assert after["srk_name"] == before["srk_name"]


def test_doctor_tells_truth_and_exit_status(
    allinone: DaemonUnderTest,
) -> None:
    """There is no libvirtd here, and doctor must say so."""
    done = run_vmsec("--api-socket", allinone.socket, "doctor", "-f", "csv")
    assert done.returncode == 1
    rows = done.stdout.decode()
    assert '"agent testnode","tpm",True' in rows
    assert '"agent testnode","libvirt",False' in rows
    assert done.stderr == b""


def test_an_unknown_vm_is_refused_with_the_status_of_custody(
    allinone: DaemonUnderTest,
) -> None:
    unknown = str(uuid.uuid4())
    for words in (("vm", "show"), ("key", "show"), ("vm", "seal")):
        done = run_vmsec("--api-socket", allinone.socket, *words, unknown)
        require_one_line(done, CUSTODY)


def test_what_is_no_uuid_is_refused_by_the_api(
    allinone: DaemonUnderTest,
) -> None:
    done = run_vmsec("--api-socket", allinone.socket, "vm", "protect", "web1")
    assert "UUID" in require_one_line(done, CONFIGURATION)


def test_a_node_whose_agent_is_silent_cannot_be_enrolled(
    tmp_path: pathlib.Path,
) -> None:
    with DaemonUnderTest(
        tmp_path,
        extra="[messaging]\nrpc_timeout = 5\n[api]\nagent_timeout = 10\n",
    ) as daemon:
        done = run_vmsec(
            "--api-socket", daemon.socket, "node", "enroll", "compute9"
        )
    assert "compute9" in require_one_line(done, 70)


def test_the_socket_is_for_its_group_only(allinone: DaemonUnderTest) -> None:
    status = allinone.socket.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_uid == os.geteuid()


def test_the_state_is_for_its_owner_only(allinone: DaemonUnderTest) -> None:
    for role in (allinone.directory / "state").iterdir():
        assert stat.S_IMODE(role.stat().st_mode) == 0o700, role


def test_a_second_copy_is_refused(allinone: DaemonUnderTest) -> None:
    second = allinone.launch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == CONFIGURATION
    assert out == b""
    text = err.decode()
    assert text.startswith("vmsec-allinone: ")
    assert text.count("\n") == 1
    assert str(allinone.process.pid) in text
    assert ask(allinone, "node", "list")


def test_sighup_is_survived(allinone: DaemonUnderTest) -> None:
    allinone.process.send_signal(signal.SIGHUP)
    limit = time.monotonic() + 30
    while "read again" not in allinone.log.read_text():
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert allinone.process.poll() is None


def test_it_says_nothing_but_its_log(allinone: DaemonUnderTest) -> None:
    for line in allinone.log.read_text().splitlines():
        assert line[:2] == "20", line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_nothing_and_a_restart_keeps_the_state(
    allinone: DaemonUnderTest, number: int
) -> None:
    ask(allinone, "vm", "protect", VM, "--name", "web1")
    before = [ask(allinone, noun, "list") for noun in ("node", "vm", "key")]
    assert len(allinone.relatives()) > 1
    assert allinone.stop(number) == 0
    assert not allinone.socket.exists()
    assert allinone.relatives() == []
    allinone.start()
    after = [ask(allinone, noun, "list") for noun in ("node", "vm", "key")]
    assert after == before


def test_a_kill_loses_nothing_and_the_next_start_cleans_up(
    allinone: DaemonUnderTest,
) -> None:
    ask(allinone, "vm", "protect", VM, "--name", "web1")
    before = [ask(allinone, noun, "list") for noun in ("node", "vm", "key")]
    allinone.kill()
    allinone.start()
    after = [ask(allinone, noun, "list") for noun in ("node", "vm", "key")]
    assert after == before
    fresh = str(uuid.uuid4())
    assert ask(allinone, "vm", "protect", fresh)["key_version"] == 1
    assert len([x for x in allinone.relatives() if "swtpm" in x]) == 2
