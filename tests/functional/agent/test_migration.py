"""Live migration over shared storage between two nodes, each its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.functional.agent.conftest import Guest, Lab
from tests.support.libvirt import PrivateLibvirt, VirshError, make_domain
from tests.support.node import NodeProcess, wait_until
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two libvirtd and two agents; every path is shared between them."""
    require_tool("libvirtd", "virsh", "qemu-system-x86_64", "unshare", "swtpm")
    require_root()
    node = NodeProcess(tmp_path_factory.mktemp("cloud"), hosts=2)
    with PrivateLibvirt(hooks=node.hooks, hosts=2) as libvirt:
        node.uris = libvirt.uris
        with node:
            yield Lab(libvirt, node)


@pytest.fixture
def guest(cloud: Lab, bootable_disk: pathlib.Path) -> Iterator[Guest]:
    """A protected guest that runs on the first host."""
    domain = make_domain("mover", bootable_disk)
    cloud.node.protect(domain.uuid)
    cloud.libvirt.define(domain)
    guest = Guest(cloud, domain)
    yield guest
    for host in (0, 1):
        for command in ("destroy", "undefine"):
            try:
                cloud.libvirt.virsh(command, "mover", host=host)
            except VirshError:
                continue


def migrate(guest: Guest, *, source: int, target: int) -> None:
    """Move it live."""
    libvirt = guest.lab.libvirt
    socket = libvirt.directory / "migration"
    libvirt.virsh(
        "migrate", "--live", "--unsafe", "--persistent",
        "--migrateuri", f"unix://{socket}",
        "mover", libvirt.uris[target],
        host=source,
    )  # fmt: skip


def test_guest_runs_on_after_migration_and_is_sealed_where_it_stops(
    guest: Guest,
) -> None:
    libvirt = guest.lab.libvirt
    guest.boot()
    migrate(guest, source=0, target=1)
    assert guest.state() == "plain"
    libvirt.virsh("reset", "mover", host=1)
    guest.require_boot()
    libvirt.virsh("destroy", "mover", host=1)
    assert guest.state() == "sealed"
    shown = guest.lab.node.call("vm_show", str(guest.domain.uuid))
    assert shown["node"] == "node-b"
    libvirt.start("mover", host=1)
    guest.require_boot()


def test_old_node_never_seals_under_the_guest_and_gets_it_back(
    guest: Guest,
) -> None:
    libvirt, node = guest.lab.libvirt, guest.lab.node
    guest.boot()
    migrate(guest, source=0, target=1)
    before = node.passes()
    node.kill()
    node.start()
    wait_until("reconciled", lambda: node.passes() >= before + 2)
    assert guest.state() == "plain"
    migrate(guest, source=1, target=0)
    libvirt.virsh("destroy", "mover", host=0)
    assert guest.state() == "sealed"
    guest.boot()


def test_migration_that_fails_leaves_guest_and_disk_with_the_source(
    guest: Guest,
) -> None:
    guest.boot()
    socket = guest.lab.libvirt.directory / "nowhere" / "migration"
    with pytest.raises(VirshError):
        guest.lab.libvirt.virsh(
            "migrate", "--live", "--unsafe",
            "--migrateuri", f"unix://{socket}",
            "mover", guest.lab.libvirt.uris[1],
        )  # fmt: skip
    assert guest.state() == "plain"
    guest.virsh("reset")
    guest.require_boot()
    guest.virsh("destroy")
    assert guest.state() == "sealed"
    guest.boot()
