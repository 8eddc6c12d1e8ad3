"""Real disks and a real libvirtd for the functional tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.disk import build_bootable_disk, copy_sparse
from tests.support.libvirt import PrivateLibvirt
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

DISK_TOOLS = ("grub-mkimage", "mke2fs", "sfdisk", "mcopy", "cpio", "openssl")


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
