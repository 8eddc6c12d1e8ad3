"""The engine on real images: byte identity, sparseness, formats, devices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import images, xfs
from tests.support.images import IMAGES, Store, digest, seal, unseal
from tests.support.tools import require_root, require_tool
from vmsec.sealing.engine import recover_image, rekey_image, verify_image
from vmsec.sealing.inspection import inspect_image, read_status
from vmsec.sealing.model import ImageRef, SealIdentity, SealSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

from vmsec.ondisk.extent import Level

TOOLS = (
    "mke2fs", "sfdisk", "mkntfs", "ntfs-3g", "mkfs.vfat", "mcopy", "fls",
    "mkfs.xfs",
)  # fmt: skip


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    require_tool(*TOOLS)
    return IMAGES[request.param](tmp_path / "disk.img")


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    require_tool(*TOOLS)
    return images.ext4_on_mbr(tmp_path / "disk.img")


def _state(path: Path, fmt: str = "raw") -> str:
    status = read_status(ImageRef(path, fmt), settings=images.SETTINGS)
    return status.state


@pytest.mark.parametrize("level", Level)
def test_unsealed_is_byte_identical(image: Path, level: Level) -> None:
    before, store = digest(image), Store()
    seal(image, store, settings=SealSettings(level=level))
    assert _state(image) == "sealed"
    assert digest(image) != before
    unseal(image, store)
    assert _state(image) == "plain"
    assert digest(image) == before
    leftovers = [p for p in image.parent.iterdir() if "vmsec" in p.name]
    assert leftovers == []


def test_a_sparse_image_stays_sparse(image: Path) -> None:
    before, store = image.stat().st_blocks, Store()
    seal(image, store)
    assert image.stat().st_blocks <= before * 1.01 + 64
    unseal(image, store)
    assert image.stat().st_blocks <= before * 1.01 + 64


def test_the_disk_and_the_key_alone_unseal_it(ext4: Path) -> None:
    before = digest(ext4)
    assert seal(ext4, Store()).embedded
    unseal(ext4, None)
    assert digest(ext4) == before


def test_a_disk_without_room_needs_an_outside_copy(tmp_path: Path) -> None:
    require_tool(*TOOLS)
    path = images.ext4_without_label(tmp_path / "disk.img")
    before, store = digest(path), Store()
    assert not seal(path, store).embedded
    unseal(path, store)
    assert digest(path) == before


def test_rekey_changes_all_and_keeps_the_content(image: Path) -> None:
    before, store = digest(image), Store()
    first = seal(image, store)
    sealed = digest(image)
    identity = SealIdentity(images.VM, images.DISK, 2, 2)
    report = rekey_image(
        ImageRef(image),
        identity,
        keys=images.keys,
        settings=images.SETTINGS,
        manifests=store,
    )
    assert digest(image) != sealed
    assert report.sealed_bytes == first.sealed_bytes
    status = read_status(ImageRef(image), settings=images.SETTINGS)
    assert (status.generation, status.key_version) == (2, 2)
    unseal(image, store)
    assert digest(image) == before


def test_verify_reads_all_and_writes_nothing(image: Path) -> None:
    store = Store()
    seal(image, store)
    before = digest(image)
    report = verify_image(
        ImageRef(image),
        keys=images.keys,
        settings=images.SETTINGS,
        manifests=store,
    )
    assert report.extents > 3
    assert digest(image) == before


def test_inspect_says_what_seal_then_does(image: Path) -> None:
    before = digest(image)
    found = inspect_image(ImageRef(image), settings=images.SETTINGS)
    assert digest(image) == before
    report = seal(image, Store())
    assert report.sealed_bytes == found.sealed_bytes
    assert report.classes == found.classes


def test_recovery_of_a_healthy_image_does_nothing(ext4: Path) -> None:
    before = digest(ext4)
    report = recover_image(ImageRef(ext4), settings=images.SETTINGS)
    assert (report.action, report.state) == ("none", "plain")
    assert digest(ext4) == before


def test_checkers_find_the_unsealed_disk_clean(tmp_path: Path) -> None:
    require_tool(*TOOLS, "e2fsck")
    path = images.ext4_without_label(tmp_path / "disk.img")
    store = Store()
    seal(path, store)
    unseal(path, store)
    images.run("e2fsck", "-fn", path)


def test_checkers_find_the_unsealed_xfs_clean(tmp_path: Path) -> None:
    require_tool("mkfs.xfs", "xfs_repair")
    path = tmp_path / "disk.img"
    xfs.make_image(path, tree=images.tree(tmp_path), mib=64)
    before, store = digest(path), Store()
    xfs.run("xfs_repair", "-n", str(path))
    seal(path, store)
    xfs.run("xfs_repair", "-n", str(path), ok=(1,))
    content = path.read_bytes()
    assert not any(name.encode() in content for name in images.NAMES)
    unseal(path, store)
    xfs.run("xfs_repair", "-n", str(path))
    assert digest(path) == before


def _convert(source: Path, target: Path, fmt: str, to: str) -> Path:
    images.run(
        "qemu-img", "convert", "-f", fmt, "-O", to, source, target
    )  # fmt: skip
    return target


@pytest.mark.parametrize("fmt", ["qcow2", "vmdk", "vdi", "vhdx"])
def test_qemu_formats_through_qemu(ext4: Path, fmt: str) -> None:
    require_tool("qemu-storage-daemon", "qemu-img")
    before, store = digest(ext4), Store()
    disk = _convert(ext4, ext4.with_suffix(f".{fmt}"), "raw", fmt)
    seal(disk, store, fmt=fmt)
    assert _state(disk, fmt) == "sealed"
    info = images.run("qemu-img", "info", "-f", fmt, disk)
    assert f"file format: {fmt}" in info
    unseal(disk, store, fmt=fmt)
    raw = _convert(disk, ext4.with_suffix(".out"), fmt, "raw")
    assert digest(raw) == before


def test_only_the_overlay_is_written(ext4: Path) -> None:
    require_tool("qemu-storage-daemon", "qemu-img")
    before, store = digest(ext4), Store()
    overlay = ext4.with_suffix(".qcow2")
    images.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
        "-b", ext4, overlay,
    )  # fmt: skip
    seal(overlay, store, fmt="qcow2")
    assert digest(ext4) == before
    unseal(overlay, store, fmt="qcow2")
    assert digest(ext4) == before
    raw = _convert(overlay, ext4.with_suffix(".out"), "qcow2", "raw")
    assert digest(raw) == before


def test_raw_sealed_then_converted_to_qcow2_unseals(ext4: Path) -> None:
    require_tool("qemu-storage-daemon", "qemu-img")
    before = digest(ext4)
    seal(ext4, Store())
    disk = _convert(ext4, ext4.with_suffix(".qcow2"), "raw", "qcow2")
    unseal(disk, None, fmt="qcow2")
    raw = _convert(disk, ext4.with_suffix(".out"), "qcow2", "raw")
    assert digest(raw) == before


@pytest.fixture(params=[512, 4096])
def loop(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, Path]]:
    """A block device with a GPT and ext4, and the file behind it."""
    require_root()
    require_tool(*TOOLS, "losetup")
    file = images.empty(tmp_path / "disk.img", 64)
    attach = ("losetup", "-f", "--show", "--sector-size", request.param)
    device = Path(images.run(*attach, file).strip())
    try:
        images.run("sfdisk", "-q", device, stdin="label: gpt\ntype=L\n")
        part = images.Place(images.MIB, 60 * images.MIB)
        images._ext4(device, images.tree(tmp_path), part)
        yield device, file
    finally:
        images.run("losetup", "-d", device)


def test_block_devices_with_both_sector_sizes(
    loop: tuple[Path, Path], tmp_path: Path
) -> None:
    device, file = loop
    subprocess.run(["sync"], check=True)
    before, store = digest(device), Store()
    settings = SealSettings(journal_directory=tmp_path / "journals")
    seal(device, store, settings=settings)
    assert digest(device) != before
    unseal(device, store, settings=settings)
    assert digest(device) == before
    assert list((tmp_path / "journals").iterdir()) == []
    assert file.exists()


def test_a_copy_moved_elsewhere_unseals_there(
    ext4: Path, tmp_path: Path
) -> None:
    before = digest(ext4)
    seal(ext4, Store())
    copy = tmp_path / "elsewhere.raw"
    shutil.copy(ext4, copy)
    unseal(copy, None)
    assert digest(copy) == before
