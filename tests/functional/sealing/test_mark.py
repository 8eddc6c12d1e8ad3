"""What the tools of the field make of a sealed disk's LBA 0."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_utils.imageutils import format_inspector

from tests.support import images
from tests.support.images import Store, seal
from tests.support.qemu import boot_in_qemu
from tests.support.tools import require_tool
from vmsec.sealing import header

SOURCE = Path(header.__file__).with_name("bootstub.asm")


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    require_tool("mke2fs", "sfdisk")
    path = images.ext4_on_mbr(tmp_path / "disk.img")
    seal(path, Store())
    return path


def test_the_stub_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    require_tool("nasm")
    binary = tmp_path / "stub.bin"
    images.run("nasm", "-f", "bin", "-o", binary, SOURCE)
    assert binary.read_bytes() == header.STUB


def test_the_image_services_inspector_calls_it_safe(sealed: Path) -> None:
    """oslo.utils, as nova and glance use it."""
    found = format_inspector.detect_file_format(str(sealed))
    assert found is not None
    assert str(found) == "gpt"
    found.safety_check()


def test_partition_tools_see_one_partition_without_file_system(
    sealed: Path,
) -> None:
    require_tool("sfdisk", "blkid")
    dump = images.run("sfdisk", "-d", sealed)
    assert dump.count("type=da") == 1
    probe = images.run("blkid", "-p", "-o", "export", sealed)
    assert "PTTYPE=dos" in probe
    assert "\nTYPE=" not in probe


def test_booted_it_says_what_it_is_and_halts(sealed: Path) -> None:
    require_tool("qemu-system-x86_64")
    text = boot_in_qemu(sealed, until=b"own cloud.", timeout=60)
    assert f"sealed by vmsec, VM {images.VM};".encode() in text
