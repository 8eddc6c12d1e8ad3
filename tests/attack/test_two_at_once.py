"""Several at one image: by its name, a link to it, another name of it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Store, digest, seal, unseal
from tests.support.killing import DirectoryStore, start
from tests.support.tools import require_tool
from vmsec.errors import AlreadySealedError, ImageBusyError, VmsecError
from vmsec.sealing.device import FileDevice
from vmsec.sealing.engine import recover_image, seal_image
from vmsec.sealing.image import open_device
from vmsec.sealing.model import ImageRef, SealIdentity

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 6


@pytest.fixture
def names(disk: Path) -> list[Path]:
    """The image's name, a symbolic link, and a hard link elsewhere."""
    elsewhere = disk.parent / "elsewhere"
    elsewhere.mkdir()
    link, hard = elsewhere / "link.img", elsewhere / "hard.img"
    link.symlink_to(disk)
    os.link(disk, hard)
    return [disk, link, hard]


def _outcomes(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]


def test_of_many_that_seal_one_does(
    names: list[Path], plain: Path, tmp_path: Path
) -> None:
    """The others find it busy or sealed; each manifest is another's."""
    disk, store = names[0], DirectoryStore(tmp_path / "manifests")

    def work(path: Path) -> None:
        try:
            seal(path, store)
        except (AlreadySealedError, ImageBusyError):
            os._exit(3)

    children = [
        start(partial(work, names[n % len(names)]), tmp_path)
        for n in range(WORKERS)
    ]
    assert sorted(_outcomes(children)) in (
        [0] + [3] * (WORKERS - 1),
        [3] * WORKERS,  # each saw another's lock; nobody wrote
    )
    if recover_image(ImageRef(disk), settings=images.SETTINGS).state == (
        "sealed"
    ):
        unseal(disk, store)
    assert digest(disk) == digest(plain)


def test_of_many_that_unseal_one_does(
    names: list[Path], plain: Path, tmp_path: Path, store: Store
) -> None:
    disk = names[0]
    seal(disk, store)

    def work(path: Path) -> None:
        try:
            unseal(path, store)
        except VmsecError:
            os._exit(3)

    children = [
        start(partial(work, names[n % len(names)]), tmp_path)
        for n in range(WORKERS)
    ]
    assert _outcomes(children).count(0) <= 1
    if recover_image(ImageRef(disk), settings=images.SETTINGS).state == (
        "sealed"
    ):
        unseal(disk, store)
    assert digest(disk) == digest(plain)


def test_recovery_waits_for_nobody(disk: Path, store: Store) -> None:
    """A journal of who is at work is not taken for one of a crash."""
    seen: list[str] = []

    def progress(done: int, total: int) -> None:
        if done and total and not seen:
            text = refused_while_busy(disk)
            seen.append(text)

    seal_image(
        ImageRef(disk),
        SealIdentity(images.VM, images.DISK, 1, 1),
        images.KEY,
        settings=images.SETTINGS,
        manifests=store,
        progress=progress,
    )
    assert "in use" in seen[0]


def refused_while_busy(disk: Path) -> str:
    """Recovery of an image that is being sealed, by another descriptor."""
    with pytest.raises(ImageBusyError) as caught:
        recover_image(ImageRef(disk), settings=images.SETTINGS)
    return str(caught.value)


def test_a_link_put_in_the_images_place_is_not_followed(
    disk: Path, tmp_path: Path
) -> None:
    """T12: it was resolved; what is a link now was swapped meanwhile."""
    victim = tmp_path / "victim"
    disk.rename(victim)
    disk.symlink_to(victim)
    with pytest.raises(VmsecError):
        FileDevice(disk)


def test_a_fifo_in_the_images_place_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    os.mkfifo(path)
    with pytest.raises(VmsecError):
        seal(path, Store())
    with pytest.raises(VmsecError):
        FileDevice(path, writable=False)


def test_a_directory_or_device_in_the_images_place(tmp_path: Path) -> None:
    refused_directory = tmp_path / "directory"
    refused_directory.mkdir()
    for path in (refused_directory, tmp_path / "none", tmp_path / "null"):
        if path.name == "null":
            path.symlink_to("/dev/null")
        with pytest.raises(VmsecError):
            seal(path, Store())


def test_a_qcow2_that_is_in_use_is_busy(plain: Path, tmp_path: Path) -> None:
    """Which callers may try again, as with any other format."""
    require_tool("qemu-img", "qemu-storage-daemon")
    path = tmp_path / "disk.qcow2"
    images.run(
        "qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, path
    )  # fmt: skip
    with open_device(ImageRef(path, "qcow2"), writable=True):
        with pytest.raises(ImageBusyError):
            seal(path, Store(), fmt="qcow2")
        with pytest.raises(ImageBusyError):
            recover_image(ImageRef(path, "qcow2"), settings=images.SETTINGS)
