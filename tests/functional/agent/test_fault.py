"""Something is away, killed, refused or damaged: no disk is lost or bared."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.disk import copy_sparse
from tests.support.node import NodeError, wait_until
from vmsec.sealing.journalfile import journal_path

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    from tests.functional.agent.conftest import Guest, Lab


def test_agent_away_refuses_protected_guests_and_starts_others(
    lab: Lab, guest: Guest, make_guest: Callable[..., Guest]
) -> None:
    guest.boot()
    guest.virsh("destroy")
    other = make_guest(protect=False)
    lab.node.stop()
    refusal = guest.refusal()
    assert "vmsec-agent does not answer" in refusal
    assert "systemctl start vmsec-agent" in refusal
    assert guest.state() == "sealed"
    other.boot()
    lab.node.start()
    guest.boot()


def test_agent_away_at_a_stop_seals_when_it_is_back(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    lab.node.stop()
    guest.virsh("destroy")
    assert guest.state() == "plain"
    lab.node.start()
    guest.wait_sealed()
    guest.boot()


def test_agent_restarted_under_a_running_guest_leaves_it_alone(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    lab.node.kill()
    lab.node.start()
    guest.virsh("reset")
    guest.require_boot()
    assert guest.state() == "plain"
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    guest.boot()


@pytest.mark.parametrize("operation", ["seal", "unseal"])
def test_agent_killed_in_the_middle_is_recovered_at_its_start(
    lab: Lab, guest: Guest, operation: str
) -> None:
    guest.boot()
    if operation == "unseal":
        guest.virsh("destroy")
    journal = journal_path(guest.image, None)
    killer = threading.Thread(target=kill_at, args=(lab.node.pid, journal))
    killer.start()
    with contextlib.suppress(Exception):
        # The hook finds its agent gone; a start is refused by that.
        guest.virsh("destroy" if operation == "seal" else "start")
    killer.join(60)
    assert not killer.is_alive(), "the journal was never seen"
    lab.node.kill()
    lab.node.start()
    guest.wait_sealed()
    assert not journal.exists()
    guest.boot()


def kill_at(pid: int, journal: pathlib.Path) -> None:
    """Kill a process in the moment in which a journal lies there."""
    deadline = time.monotonic() + 50
    draft = journal.with_name(journal.name + ".draft")
    while time.monotonic() < deadline:
        if journal.exists() or draft.exists():
            os.kill(pid, signal.SIGKILL)
            return


def test_kmc_away_stops_seal_and_starts_go_on_with_held_keys(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    lab.node.call("kmc_stop")
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    guest.boot()
    guest.virsh("destroy")
    lab.node.call("kmc_start")
    uuid = str(guest.domain.uuid)

    def generations() -> list[int]:
        shown = lab.node.call("vm_show", uuid)
        return [disk["generation"] for disk in shown["disks"]]

    wait_until("reported", lambda: generations() == [2])


def test_kmc_away_and_no_offline_start_refuses(lab: Lab, guest: Guest) -> None:
    lab.restart_node(offline_start=False, kmc_timeout=1)
    guest.boot()
    lab.node.call("kmc_stop")
    guest.virsh("destroy")
    refusal = guest.refusal()
    assert "offline_start is off" in refusal
    assert guest.state() == "sealed"
    lab.node.call("kmc_start")
    guest.boot()


def test_kmc_away_never_holds_back_an_unprotected_guest(
    lab: Lab, make_guest: Callable[..., Guest]
) -> None:
    lab.restart_node(kmc_timeout=1)
    lab.node.call("kmc_stop")
    make_guest(protect=False).boot()


def test_guest_placed_on_another_node_is_refused_and_stays_sealed(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    uuid = str(guest.domain.uuid)
    lab.node.call("place", uuid, "node-b")
    refusal = guest.refusal()
    assert "no key for it here" in refusal
    assert guest.state() == "sealed"
    lab.node.call("place", uuid, "node-a")
    guest.boot()


def test_disk_sealed_for_another_guest_is_refused_in_clear_words(
    guest: Guest, make_guest: Callable[..., Guest], tmp_path: pathlib.Path
) -> None:
    guest.boot()
    guest.virsh("destroy")
    stolen = copy_sparse(guest.image, tmp_path / "stolen.img")
    thief = make_guest(image=stolen)
    refusal = thief.refusal()
    assert f"sealed for VM {guest.domain.uuid}" in refusal
    assert stolen.read_bytes() == guest.image.read_bytes()


def test_copy_under_another_uuid_shows_whose_it_is_and_halts(
    guest: Guest, make_guest: Callable[..., Guest], tmp_path: pathlib.Path
) -> None:
    """Nobody protects the thief's VM: nothing holds it back but the stub."""
    guest.boot()
    guest.virsh("destroy")
    stolen = copy_sparse(guest.image, tmp_path / "stolen.img")
    thief = make_guest(image=stolen, protect=False)
    thief.virsh("start")
    said = f"sealed by vmsec, VM {guest.domain.uuid};".encode()
    wait_until("stub", lambda: said in thief.domain.read_console())
    thief.virsh("destroy")
    assert stolen.read_bytes() == guest.image.read_bytes()
    guest.boot()


def test_tampered_disk_is_refused_and_the_good_one_sealed_again(
    lab: Lab, guest: Guest, built_disk: pathlib.Path
) -> None:
    second = copy_sparse(built_disk, guest.image.with_name("second.img"))
    attach = ("--persistent", "--targetbus", "virtio", "--subdriver", "raw")
    guest.virsh("attach-disk", str(second), "vdb", *attach)
    guest.lab.libvirt.start(guest.domain.name)
    guest.virsh("destroy")
    assert lab.node.status(second) == "sealed"
    generation = guest.status().generation
    damage(second)
    assert "wrong key, or the sealed data was changed" in guest.refusal()
    assert guest.status().state == "sealed"
    assert guest.status().generation == generation + 1
    assert lab.node.status(second) == "sealed"


def damage(image: pathlib.Path) -> None:
    """Change one byte of the sealed superblock (1 MiB + 1 KiB)."""
    with image.open("r+b") as file:
        file.seek((1 << 20) + 1024)
        byte = file.read(1)[0]
        file.seek((1 << 20) + 1024)
        file.write(bytes([byte ^ 1]))


def test_damaged_state_refuses_and_names_the_file(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    path = lab.node.state / "vms" / str(guest.domain.uuid) / "vm"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    refusal = guest.refusal()
    assert str(path) in refusal
    assert guest.state() == "sealed"
    path.write_bytes(good)
    guest.boot()


def test_seal_beyond_its_budget_goes_on_and_a_start_waits_for_it(
    lab: Lab, guest: Guest
) -> None:
    lab.restart_node(seal_budget=0)
    guest.boot()
    guest.virsh("destroy")
    guest.boot()
    guest.virsh("destroy")
    guest.wait_sealed()


def test_start_beyond_its_deadline_is_refused_and_the_disk_sealed_again(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    lab.restart_node(hook_deadline=0)
    assert "not ready after 0 s" in guest.refusal()
    lab.restart_node()
    guest.wait_sealed()
    guest.boot()


def test_manual_unseal_stays_plain_until_the_next_stop(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    uuid = str(guest.domain.uuid)
    job = lab.node.call("job", "vm_unseal", uuid)
    assert [disk[1] for disk in job["disks"]] == ["plain"]
    before = lab.node.passes()
    lab.restart_node()
    wait_until("reconciled", lambda: lab.node.passes() > before)
    assert guest.state() == "plain"
    guest.boot()
    guest.virsh("destroy")
    assert guest.state() == "sealed"


def test_manual_operations_are_refused_while_the_guest_runs(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    uuid = str(guest.domain.uuid)
    for method in ("vm_seal", "vm_unseal"):
        with pytest.raises(NodeError, match="runs or is about to"):
            lab.node.call("job", method, uuid)
    assert guest.state() == "plain"
    guest.virsh("reset")
    guest.require_boot()


def test_rekey_of_a_stopped_guest_leaves_the_old_key_behind(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    uuid = str(guest.domain.uuid)
    assert lab.node.call("rotate", uuid) == 2
    job = lab.node.call("job", "vm_rekey", uuid)
    assert [disk[3] for disk in job["disks"]] == [2]
    assert guest.status().key_version == 2
    guest.boot()


def test_rekey_of_a_running_guest_comes_with_its_stop(
    lab: Lab, guest: Guest
) -> None:
    guest.boot()
    guest.virsh("destroy")
    guest.boot()
    uuid = str(guest.domain.uuid)
    lab.node.call("rotate", uuid)
    lab.node.call("job", "vm_rekey", uuid)
    guest.virsh("destroy")
    assert guest.status().key_version == 2
    guest.boot()
