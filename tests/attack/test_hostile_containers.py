"""Containers that name files of the host: refused before QEMU opens them.

Whoever can have an image sealed must not be able to have another file of the
host encrypted, or copied into the image.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import MIB, Store, digest, run, seal, unseal
from tests.support.refusal import copy, refused
from tests.support.tools import require_tool
from vmsec.errors import FormatError, UnsupportedFormatError, VmsecError
from vmsec.sealing.engine import recover_image
from vmsec.sealing.model import ImageRef
from vmsec.sealing.status import read_status

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _tools() -> None:
    require_tool("qemu-img", "qemu-storage-daemon", "setpriv")


@pytest.fixture
def victim(plain: Path, tmp_path: Path) -> Path:
    """Another disk of the host, which is not the attacker's."""
    place = tmp_path / "host"
    place.mkdir()
    return copy(plain, place / "victim.img")


def _refused_everywhere(path: Path, fmt: str) -> str:
    image = ImageRef(path, fmt)
    for call in (
        lambda: unseal(path, None, fmt=fmt),
        lambda: recover_image(image, settings=images.SETTINGS),
        lambda: read_status(image, settings=images.SETTINGS),
    ):
        refused(path, VmsecError, call)
    return refused(path, FormatError, lambda: seal(path, Store(), fmt=fmt))


def test_an_external_data_file_is_not_encrypted(
    victim: Path, tmp_path: Path, plain: Path
) -> None:
    path = tmp_path / "evil.qcow2"
    options = f"data_file={victim},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "64M")
    copy(plain, victim)
    text = _refused_everywhere(path, "qcow2")
    assert "another file" in text
    assert digest(victim) == digest(plain)


def test_a_flat_extent_of_a_vmdk_is_not_encrypted(
    victim: Path, tmp_path: Path, plain: Path
) -> None:
    path = tmp_path / "evil.vmdk"
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 131072 FLAT "{victim}" 0\n'
        'ddb.adapterType = "ide"\n'
    )
    _refused_everywhere(path, "vmdk")
    assert digest(victim) == digest(plain)


def test_a_sparse_vmdk_that_sends_qemu_to_its_descriptor(
    victim: Path, tmp_path: Path, plain: Path
) -> None:
    """A capacity of zero in the header: then the descriptor counts."""
    path = tmp_path / "evil.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "64M")
    whole = bytearray(path.read_bytes())
    struct.pack_into("<Q", whole, 12, 0)
    path.write_bytes(whole)
    _refused_everywhere(path, "vmdk")
    assert digest(victim) == digest(plain)


def _overlay(path: Path, backing: str, fmt: str | None) -> None:
    """A qcow2 whose header names a backing file that QEMU never checked."""
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    whole = bytearray(path.read_bytes())
    name, place = backing.encode(), 4096
    whole[place : place + len(name)] = name
    struct.pack_into(">QI", whole, 8, place, len(name))
    (length,) = struct.unpack_from(">I", whole, 100)
    if fmt is not None:
        word = fmt.encode()
        struct.pack_into(">II", whole, length, 0xE2792ACA, len(word))
        whole[length + 8 : length + 32] = word.ljust(24, b"\0")
    path.write_bytes(whole)


BACKINGS = [
    ("/etc/shadow", "raw"),
    ("/etc/passwd", "raw"),
    ("/etc", "raw"),
    ("/dev/zero", "raw"),
    ("json:{}", "raw"),
    ('json:{"driver":"file","filename":"/etc/shadow"}', "raw"),
    ("nbd://127.0.0.1:1/x", "raw"),
    ("http://127.0.0.1:1/x", "raw"),
    ("file:///etc/shadow", "raw"),
    ("host\n.img", "raw"),
]


@pytest.mark.parametrize(("backing", "fmt"), BACKINGS)
def test_a_backing_file_that_is_no_disk_is_not_copied(
    tmp_path: Path, backing: str, fmt: str
) -> None:
    path = tmp_path / "evil.qcow2"
    _overlay(path, backing, fmt)
    text = _refused_everywhere(path, "qcow2")
    assert "backing file" in text


@pytest.mark.parametrize("fmt", [None, "vmdk", "luks", "host_device"])
def test_a_backing_file_of_no_or_another_format(
    victim: Path, tmp_path: Path, fmt: str | None
) -> None:
    """Without a format QEMU would look into it and follow what it finds."""
    path = tmp_path / "evil.qcow2"
    _overlay(path, str(victim), fmt)
    assert "format" in _refused_everywhere(path, "qcow2")


def test_a_data_file_deeper_in_the_chain(victim: Path, tmp_path: Path) -> None:
    base, path = victim.parent / "base.qcow2", tmp_path / "evil.qcow2"
    options = f"data_file={victim.parent / 'data'},data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, base, "64M")
    _overlay(path, str(base), "qcow2")
    assert "another file" in _refused_everywhere(path, "qcow2")


def test_a_chain_that_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "evil.qcow2"
    _overlay(path, str(path), "qcow2")
    assert "backing files" in _refused_everywhere(path, "qcow2")


def test_an_honest_overlay_is_sealed(victim: Path, tmp_path: Path) -> None:
    path, before = tmp_path / "disk.qcow2", digest(victim)
    _overlay(path, "host/victim.img", "raw")
    store = Store()
    seal(path, store, fmt="qcow2")
    unseal(path, store, fmt="qcow2")
    assert digest(victim) == before


def test_compressed_clusters_are_not_left_readable(
    plain: Path, tmp_path: Path
) -> None:
    """They would be replaced: 60 of 60 names came back from the file."""
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, path)
    text = refused(
        path,
        UnsupportedFormatError,
        lambda: seal(path, Store(), fmt="qcow2"),
    )
    assert "compressed" in text


def test_internal_snapshots_are_not_left_readable(
    plain: Path, tmp_path: Path
) -> None:
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, path)
    run("qemu-img", "snapshot", "-c", "before", path)
    text = refused(
        path,
        UnsupportedFormatError,
        lambda: seal(path, Store(), fmt="qcow2"),
    )
    assert "snapshot" in text


DAMAGE = [(4, 0xFF), (20, 63), (36, 0xFF), (40, 0x7F)]


@pytest.mark.parametrize(("offset", "value"), DAMAGE)
def test_a_damaged_qcow2_header_is_one_error(
    plain: Path, tmp_path: Path, offset: int, value: int
) -> None:
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, path)
    with path.open("r+b") as file:
        file.truncate(2 * MIB)
        file.seek(offset)
        file.write(bytes([value]))
    refused(path, VmsecError, lambda: seal(path, Store(), fmt="qcow2"))
