"""Fixtures for every suite; unit tests may not connect or run programs."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.support.disk import build_bootable_disk, copy_sparse
from tests.support.libvirt import PrivateLibvirt
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ["PATH"] += ":/usr/sbin:/sbin"
DISK_TOOLS = ("grub-mkimage", "mke2fs", "sfdisk", "mcopy", "cpio", "openssl")
UNIT = pathlib.Path(__file__).parent / "unit"

# Deadlines measure the machine's other load, not the code.
settings.register_profile("vmsec", deadline=None)
settings.load_profile("vmsec")


@pytest.fixture(autouse=True)
def _isolation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forbid sockets and processes in unit tests."""
    if UNIT not in pathlib.Path(request.path).parents:
        return

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a unit test may not do this")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture(scope="session")
def built_disk(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One disk that boots by itself; never write to it."""
    require_tool(*DISK_TOOLS)
    path = tmp_path_factory.mktemp("disk") / "built.img"
    return build_bootable_disk(path)


@pytest.fixture
def bootable_disk(
    built_disk: pathlib.Path, tmp_path: pathlib.Path
) -> pathlib.Path:
    """A copy of the built disk for one test."""
    return copy_sparse(built_disk, tmp_path / "disk.img")


@pytest.fixture(scope="session")
def private_libvirt() -> Iterator[PrivateLibvirt]:
    """A libvirtd without hooks, shared by all tests of the session."""
    require_tool("libvirtd", "virsh", "qemu-system-x86_64", "unshare")
    require_root()
    with PrivateLibvirt() as libvirt:
        yield libvirt
