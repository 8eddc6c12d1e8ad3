"""What libvirt does to a VM, and what its disk is afterwards."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.node import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.functional.agent.conftest import Guest, Lab


def test_every_stop_seals_and_every_start_unseals(guest: Guest) -> None:
    guest.boot()
    assert guest.state() == "plain"
    guest.virsh("destroy")
    first = guest.status()
    assert first.state == "sealed"
    assert first.vm == guest.domain.uuid
    guest.boot()
    assert guest.state() == "plain"
    guest.lab.libvirt.shut_down(guest.domain.name)
    second = guest.status()
    assert (second.state, second.disk) == ("sealed", first.disk)
    assert second.generation == first.generation + 1
    guest.boot()


def test_disk_is_sealed_when_virsh_destroy_returns(guest: Guest) -> None:
    guest.boot()
    guest.virsh("destroy")
    assert guest.image.read_bytes()[256:264] == b"\x93vmsec\r\n"


def test_qcow2_is_sealed_and_stays_a_whole_container(
    built_disk: pathlib.Path,
    tmp_path: pathlib.Path,
    make_guest: Callable[..., Guest],
) -> None:
    image = tmp_path / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-q", "-O", "qcow2", built_disk, image],
        check=True,
    )
    guest = make_guest(image=image)
    guest.boot()
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    subprocess.run(["qemu-img", "check", "-q", image], check=True)
    guest.boot()


def test_managed_save_seals_and_its_restore_goes_on(guest: Guest) -> None:
    guest.boot()
    guest.virsh("managedsave")
    assert guest.state() == "sealed"
    guest.virsh("start")
    # It goes on where it was, on the very bytes that its memory expects,
    # and can still write them: an orderly power-off syncs its file system.
    guest.lab.libvirt.shut_down(guest.domain.name)
    assert guest.state() == "sealed"
    guest.boot()


def test_killed_qemu_leaves_a_sealed_disk(guest: Guest) -> None:
    guest.boot()
    kill_qemu(guest)
    guest.wait_sealed()
    guest.boot()


def test_libvirtd_killed_under_a_running_guest_changes_nothing(
    guest: Guest,
) -> None:
    guest.boot()
    guest.lab.libvirt.kill_daemon()
    assert guest.lab.libvirt.state(guest.domain.name) == "running"
    guest.virsh("reset")
    guest.require_boot()
    assert guest.state() == "plain"
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    guest.boot()


def test_guest_that_died_with_its_libvirtd_is_sealed(guest: Guest) -> None:
    guest.boot()
    kill_qemu(guest)
    guest.lab.libvirt.kill_daemon()
    guest.wait_sealed()
    guest.boot()


def kill_qemu(guest: Guest) -> None:
    """Kill the guest's QEMU (in the daemon's process namespace) with -9."""
    name = guest.domain.name.encode()
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        mine = any(str(guest.image).encode() in word for word in words)
        if mine and b"guest=" + name in b"\0".join(words):
            os.kill(int(path.parent.name), signal.SIGKILL)
            return
    pytest.fail("no QEMU of this guest runs")


def test_reboot_inside_the_guest_needs_no_hook(guest: Guest) -> None:
    guest.boot()
    guest.virsh("reset")
    guest.require_boot()
    assert guest.state() == "plain"


def test_unprotected_guest_is_left_alone(
    make_guest: Callable[..., Guest],
) -> None:
    guest = make_guest(protect=False)
    guest.boot()
    guest.virsh("destroy")
    assert guest.state() == "plain"
    guest.boot()


def test_guest_protected_while_it_runs_is_sealed_at_its_stop(
    make_guest: Callable[..., Guest],
) -> None:
    guest = make_guest(protect=False)
    guest.boot()
    guest.lab.node.protect(guest.domain.uuid)
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    guest.boot()


def test_rebuilt_disk_at_the_old_path_starts_and_is_another_disk(
    guest: Guest, built_disk: pathlib.Path
) -> None:
    guest.boot()
    guest.virsh("destroy")
    before = guest.status()
    guest.image.write_bytes(built_disk.read_bytes())
    guest.lab.libvirt.start(guest.domain.name)
    guest.virsh("destroy")
    after = guest.status()
    assert after.state == "sealed"
    assert after.disk != before.disk


def test_renamed_image_is_recognised_by_its_header(guest: Guest) -> None:
    guest.boot()
    guest.virsh("destroy")
    before = guest.status()
    moved = guest.image.with_name("moved.img")
    guest.image.rename(moved)
    guest.virsh("undefine")
    domain = guest.domain
    guest.domain = type(domain)(
        domain.name, moved, domain.console, domain.uuid
    )
    guest.lab.libvirt.define(guest.domain)
    guest.boot()
    guest.virsh("destroy")
    assert guest.status().disk == before.disk
    assert guest.status().generation == before.generation + 1


def test_kmc_knows_what_was_done(guest: Guest) -> None:
    guest.boot()
    guest.virsh("destroy")
    uuid = str(guest.domain.uuid)

    def reported() -> list[tuple[str, int]]:
        shown = guest.lab.node.call("vm_show", uuid)
        return [(disk["state"], disk["generation"]) for disk in shown["disks"]]

    wait_until("reported", lambda: reported() == [("sealed", 1)])


def test_doctor_finds_nothing_wrong(lab: Lab, guest: Guest) -> None:
    guest.boot()
    guest.virsh("destroy")
    findings = lab.node.call("self_test")
    assert not [f for f in findings.values() if str(f).startswith("FAULT")]
    assert findings["tpm"].startswith("derived the key of VM ")
    assert "release" in findings["hook called"]
