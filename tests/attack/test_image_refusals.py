"""Busy, full, foreign or garbage images: refused, the bytes unchanged."""

from __future__ import annotations

import os
import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Store, digest, seal, unseal
from tests.support.tools import require_root, require_tool
from vmsec.errors import (
    ImageBusyError,
    ImageFullError,
    ReaderDisagreementError,
    UnsupportedFormatError,
    VmsecError,
)
from vmsec.sealing.image import open_device
from vmsec.sealing.labelcheck import SecondReader
from vmsec.sealing.model import ImageRef

if TYPE_CHECKING:
    from pathlib import Path

from tests.support.refusal import copy, is_locked, qemu_io_refused, refused


def test_a_full_disk_leaves_the_image(
    plain: Path, tmp_path: Path, store: Store
) -> None:
    require_root()
    mount = tmp_path / "small"
    mount.mkdir()
    images.run("mount", "-t", "tmpfs", "-o", "size=8m", "none", mount)
    try:
        path = copy(plain, mount / "disk.img")
        room = os.statvfs(mount)
        with (mount / "filler").open("wb") as file:
            file.write(bytes(room.f_bavail * room.f_frsize - 65536))
        refused(path, ImageFullError, lambda: seal(path, store))
        (mount / "filler").unlink()
        seal(path, store)
        unseal(path, store)
        assert digest(path) == digest(plain)
    finally:
        images.run("umount", mount)


def test_an_image_in_use_by_qemu(disk: Path, store: Store) -> None:
    require_tool("qemu-system-x86_64")
    command = ["qemu-system-x86_64", "-accel", "tcg", "-display", "none"]
    command += ["-S", "-drive", f"file={disk},format=raw,if=virtio"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu:
        try:
            deadline = time.monotonic() + 30
            while not is_locked(disk):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            refused(disk, ImageBusyError, lambda: seal(disk, store))
        finally:
            qemu.terminate()
    seal(disk, store)


def test_qemu_is_kept_out_while_we_hold_the_lock(disk: Path) -> None:
    require_tool("qemu-io")
    assert not qemu_io_refused(disk)
    with open_device(ImageRef(disk), writable=True):
        assert qemu_io_refused(disk)
        with pytest.raises(ImageBusyError):
            seal(disk, Store())
    assert not qemu_io_refused(disk)


def test_an_image_too_small_to_be_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    for size in (0, 1, 511, 512, 4095, 5000):
        path.write_bytes(bytes(size))
        refused(path, VmsecError, lambda: seal(path, Store()))


def test_garbage_instead_of_an_image(tmp_path: Path) -> None:
    path, rng = tmp_path / "garbage", random.Random(2)
    for _ in range(5):
        path.write_bytes(rng.randbytes(1 << 20))
        store = Store()
        before = digest(path)
        try:
            seal(path, store)
        except VmsecError:
            assert digest(path) == before
            continue
        unseal(path, store)
        assert digest(path) == before


def test_a_luks_disk_is_never_touched(tmp_path: Path) -> None:
    """Its header overwritten, a volume manager would format it anew."""
    require_tool("cryptsetup")
    path = images.empty(tmp_path / "luks", 32)
    images.run(
        "cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", path, "-", stdin="secret",
    )  # fmt: skip
    refused(path, UnsupportedFormatError, lambda: seal(path, Store()))


def test_a_failing_manifest_store_leaves_the_image(disk: Path) -> None:
    class Full(Store):
        def save(self, blob: bytes) -> None:
            raise ImageFullError(f"no space for {len(blob)} bytes of manifest")

    refused(disk, ImageFullError, lambda: seal(disk, Full()))


def test_two_readers_that_differ_leave_the_image(
    disk: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reader answers late, but before the first write."""

    def disagree(self: SecondReader, _: object) -> None:
        time.sleep(1)
        raise ReaderDisagreementError(f"{self}: two readers differ")

    monkeypatch.setattr(SecondReader, "require_same", disagree)
    refused(disk, ReaderDisagreementError, lambda: seal(disk, store))
    assert store.blobs == []
