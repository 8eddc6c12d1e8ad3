"""Small real disk images with known file names, and a key for them."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from tests.support import xfs
from vmsec.sealing.engine import seal_image, unseal_image
from vmsec.sealing.model import ImageRef, SealIdentity, SealSettings
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmsec.sealing.manifest import ManifestStore
    from vmsec.sealing.model import SealReport

MIB = 1 << 20
VM = UUID("11111111-2222-4333-8444-555555555555")
DISK = UUID("66666666-7777-4888-8999-aaaaaaaaaaaa")
KEY = SecretBytes(bytes(range(1, 33)))
SETTINGS = SealSettings()
NAMES = tuple(f"zebra-{n:03d}-quokka.txt" for n in range(60))
BODY = b"the body of a file, which this level does not hide\n" * 40


class Store:
    """A manifest store in memory."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []

    def save(self, blob: bytes) -> None:
        self.blobs.insert(0, blob)

    def candidates(self) -> list[bytes]:
        return self.blobs


class Place(NamedTuple):
    offset: int
    length: int


def run(*command: object, stdin: str | None = None) -> str:
    """Run a tool; its output is the error if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def tree(directory: Path) -> Path:
    """A directory with known names, some below another directory."""
    deep = directory / "tree" / "okapi-directory"
    deep.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        place = deep if number % 2 else deep.parent
        (place / name).write_bytes(BODY + bytes([number]))
    return deep.parent


def empty(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def _ext4(image: Path, root: Path, place: Place) -> None:
    run(
        "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", root,
        "-E", f"offset={place.offset}", image, f"{place.length >> 10}k",
    )  # fmt: skip


def _copy_in(image: Path, part: Path, place: Place) -> None:
    run(
        "dd", f"if={part}", f"of={image}", "bs=1M", "conv=notrunc,sparse",
        f"seek={place.offset // MIB}", "status=none",
    )  # fmt: skip


def ext4_on_mbr(path: Path) -> Path:
    """MBR, one ext4 partition."""
    empty(path, 64)
    run("sfdisk", "-q", path, stdin="start=2048, type=83, bootable\n")
    _ext4(path, tree(path.parent), Place(MIB, 62 * MIB))
    return path


def esp_and_ext4_on_gpt(path: Path) -> Path:
    """GPT, an ESP with FAT32, and ext4."""
    empty(path, 128)
    table = "label: gpt\nsize=40MiB, type=U\ntype=L\n"
    run("sfdisk", "-q", path, stdin=table)
    esp = empty(path.with_suffix(".esp"), 40)
    run("mkfs.vfat", "-F", "32", esp)
    root = tree(path.parent)
    run("mcopy", "-s", "-i", esp, root / "okapi-directory", "::/")
    _copy_in(path, esp, Place(MIB, 40 * MIB))
    _ext4(path, root, Place(41 * MIB, 85 * MIB))
    esp.unlink()
    return path


def ntfs_on_mbr(path: Path) -> Path:
    """MBR, one NTFS partition, filled through ntfs-3g."""
    empty(path, 64)
    run("sfdisk", "-q", path, stdin="start=2048, type=7\n")
    part = empty(path.with_suffix(".ntfs"), 62)
    run("mkntfs", "-q", "-F", "-p", "2048", part)
    mount = path.parent / "mount"
    mount.mkdir()
    run("ntfs-3g", part, mount)
    try:
        run("cp", "-r", tree(path.parent), mount / "tree")
    finally:
        run("umount", mount)
    _copy_in(path, part, Place(MIB, 62 * MIB))
    part.unlink()
    return path


def xfs_on_mbr(path: Path) -> Path:
    """MBR, one XFS partition, filled by mkfs.xfs."""
    empty(path, 64)
    run("sfdisk", "-q", path, stdin="start=2048, type=83\n")
    part = path.with_suffix(".xfs")
    xfs.make_image(part, tree=tree(path.parent), mib=62)
    _copy_in(path, part, Place(MIB, 62 * MIB))
    part.unlink()
    return path


def ext4_without_label(path: Path) -> Path:
    """One ext4 over the whole disk: no room for the manifest."""
    empty(path, 64)
    _ext4(path, tree(path.parent), Place(0, 64 * MIB))
    return path


IMAGES: dict[str, Callable[[Path], Path]] = {
    "mbr-ext4": ext4_on_mbr,
    "gpt-esp-ext4": esp_and_ext4_on_gpt,
    "mbr-ntfs": ntfs_on_mbr,
    "mbr-xfs": xfs_on_mbr,
    "whole-ext4": ext4_without_label,
}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keys(vm: UUID, version: int) -> SecretBytes:
    """The key of these tests, for its VM and any version."""
    assert vm == VM
    assert version
    return KEY


def seal(
    path: Path,
    store: ManifestStore,
    *,
    generation: int = 1,
    settings: SealSettings = SETTINGS,
    fmt: str = "raw",
) -> SealReport:
    """Seal an image under the names of these tests."""
    identity = SealIdentity(VM, DISK, generation, 1)
    image = ImageRef(path, fmt)
    return seal_image(image, identity, KEY, settings=settings, manifests=store)


def unseal(
    path: Path,
    store: ManifestStore | None,
    *,
    settings: SealSettings = SETTINGS,
    fmt: str = "raw",
) -> SealReport:
    """Unseal an image with the key of these tests."""
    return unseal_image(
        ImageRef(path, fmt),
        vm=VM,
        keys=keys,
        settings=settings,
        manifests=store,
    )
