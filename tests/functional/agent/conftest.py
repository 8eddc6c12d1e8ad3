"""Guests on a private libvirtd whose hook is a real agent's."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.disk import BootMarker, copy_sparse
from tests.support.libvirt import (
    Domain,
    PrivateLibvirt,
    VirshError,
    make_domain,
    wait_for_boot,
)
from tests.support.node import NodeProcess, image_status, wait_until
from tests.support.tools import require_root, require_tool
from vmsec.errors import VmsecError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator


@dataclasses.dataclass
class Guest:
    """A VM of the lab: its domain, and how often it has booted."""

    lab: Lab
    domain: Domain
    boots: int = 0
    digest: str = ""

    @property
    def image(self) -> pathlib.Path:
        """The disk's image."""
        return self.domain.image

    def boot(self) -> BootMarker:
        """Start it and require that it comes up with all of its data."""
        self.lab.libvirt.start(self.domain.name)
        return self.require_boot()

    def require_boot(self) -> BootMarker:
        """Wait for the next boot: one more, and the payload unchanged."""
        self.boots += 1
        marker = wait_for_boot(self.domain, self.boots)
        assert marker.boot == self.boots
        assert marker.digest == (self.digest or marker.digest)
        self.digest = marker.digest
        return marker

    def virsh(self, command: str, *arguments: str) -> str:
        """Run a virsh command on the domain."""
        return self.lab.libvirt.virsh(command, self.domain.name, *arguments)

    def state(self) -> str:
        """Return the image's state: plain, sealed or interrupted."""
        return str(self.status().state)

    def status(self) -> Any:
        """Return all that the image's mark says."""
        return image_status(self.image, self.domain.image_format)

    def wait_sealed(self) -> None:
        """Wait until work in the background has sealed the image."""

        def sealed() -> bool:
            # Without the lock a status can meet a job half way.
            with contextlib.suppress(VmsecError):
                return self.state() == "sealed"
            return False

        wait_until("sealed", sealed)

    def refusal(self) -> str:
        """Start it and return why it was refused."""
        with pytest.raises(VirshError) as caught:
            self.virsh("start")
        return str(caught.value)


@dataclasses.dataclass
class Lab:
    """A libvirtd and the agent whose hook it calls."""

    libvirt: PrivateLibvirt
    node: NodeProcess

    def restart_node(self, **overrides: Any) -> None:
        """Start the node again, perhaps configured otherwise."""
        self.node.stop()
        self.node.overrides = overrides
        self.node.start()


@pytest.fixture(scope="session")
def session_lab(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """A libvirtd with our hook, and a node; made once."""
    require_tool("libvirtd", "virsh", "qemu-system-x86_64", "unshare", "swtpm")
    require_root()
    node = NodeProcess(tmp_path_factory.mktemp("node"))
    with PrivateLibvirt(hooks=node.hooks) as libvirt:
        node.uris = libvirt.uris
        with node:
            yield Lab(libvirt, node)


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The lab; a test may kill or reconfigure the node, it is put right."""
    yield session_lab
    node = session_lab.node
    if node.overrides or not node.answers():
        session_lab.restart_node()


@pytest.fixture
def make_guest(
    lab: Lab, built_disk: pathlib.Path, tmp_path: pathlib.Path
) -> Iterator[Callable[..., Guest]]:
    """Make guests that are gone after the test."""
    made: list[Guest] = []

    def make(
        *, protect: bool = True, image: pathlib.Path | None = None
    ) -> Guest:
        name = f"vm{len(made)}"
        image = image or copy_sparse(built_disk, tmp_path / f"{name}.img")
        kind = "qcow2" if image.suffix == ".qcow2" else "raw"
        guest = Guest(lab, make_domain(name, image, image_format=kind))
        made.append(guest)
        if protect:
            lab.node.protect(guest.domain.uuid)
        lab.libvirt.define(guest.domain)
        return guest

    yield make
    for guest in made:
        for command in ("destroy", "managedsave-remove", "undefine"):
            with contextlib.suppress(VirshError):
                guest.virsh(command)


@pytest.fixture
def guest(make_guest: Callable[..., Guest]) -> Guest:
    """A protected guest that has never run."""
    return make_guest()
