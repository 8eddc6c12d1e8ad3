"""Damaged, forged, foreign or busy images: refused, the bytes unchanged."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support import images
from tests.support.images import DISK, KEY, VM, Store, digest, seal, unseal
from tests.support.tools import require_root, require_tool
from vmsec.errors import (
    AlreadySealedError,
    CorruptImageError,
    ForeignImageError,
    HeaderError,
    ImageBusyError,
    ImageFullError,
    IntegrityError,
    ManifestError,
    NotSealedError,
    StaleJournalError,
    VmsecError,
)
from vmsec.sealing import journalfile
from vmsec.sealing.engine import (
    recover_image,
    rekey_image,
    seal_image,
    unseal_image,
    verify_image,
)
from vmsec.sealing.header import parse_header
from vmsec.sealing.image import open_device
from vmsec.sealing.inspection import inspect_image, read_status
from vmsec.sealing.manifest import read_blob
from vmsec.sealing.model import ImageRef, SealIdentity
from vmsec.sealing.work import make_cipher
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRONG = SecretBytes(bytes(32))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tool("mke2fs", "sfdisk")
    path = tmp_path_factory.mktemp("plain") / "disk.img"
    return images.ext4_on_mbr(path)


@pytest.fixture
def disk(plain: Path, tmp_path: Path) -> Path:
    return _copy(plain, tmp_path / "disk.img")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def sealed(disk: Path, store: Store) -> Path:
    seal(disk, store)
    return disk


def _copy(source: Path, target: Path) -> Path:
    subprocess.run(
        ["cp", "--sparse=always", source, target], check=True
    )  # fmt: skip
    return target


def _flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def _refused(
    path: Path, error: type[VmsecError], call: Callable[[], object]
) -> str:
    """The call is refused with one line; image and directory are as before."""
    before, beside = digest(path), sorted(path.parent.iterdir())
    with pytest.raises(error) as caught:
        call()
    assert digest(path) == before
    assert sorted(path.parent.iterdir()) == beside
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) > 20
    return text


def _unseal_with(path: Path, key: SecretBytes, store: Store) -> object:
    return unseal_image(
        ImageRef(path),
        vm=VM,
        keys=lambda *_: key,
        settings=images.SETTINGS,
        manifests=store,
    )


def test_wrong_key(sealed: Path, store: Store) -> None:
    _refused(
        sealed, IntegrityError, lambda: _unseal_with(sealed, WRONG, store)
    )


def test_wrong_key_for_verify_and_rekey(sealed: Path, store: Store) -> None:
    def rekey() -> object:
        return rekey_image(
            ImageRef(sealed),
            SealIdentity(VM, DISK, 2, 2),
            keys=lambda *_: WRONG,
            settings=images.SETTINGS,
            manifests=store,
        )

    def verify() -> object:
        return verify_image(
            ImageRef(sealed),
            keys=lambda *_: WRONG,
            settings=images.SETTINGS,
            manifests=store,
        )

    _refused(sealed, IntegrityError, rekey)
    _refused(sealed, IntegrityError, verify)


def test_a_flipped_bit_in_any_extent(sealed: Path, store: Store) -> None:
    status = read_status(ImageRef(sealed), settings=images.SETTINGS)
    assert status.state == "sealed"
    with sealed.open("rb") as file:
        header = parse_header(file.read(4096), target="x")
    cipher = make_cipher(KEY, header.context)
    manifest = read_blob(store.blobs[0], header.context, cipher.keys)
    rng = random.Random(5)
    for item in manifest.extents:
        extent = item.extent
        offset = extent.offset + rng.randrange(extent.length)
        bit = rng.randrange(8)
        _flip(sealed, offset, bit)
        _refused(sealed, IntegrityError, lambda: unseal(sealed, store))
        _flip(sealed, offset, bit)
    unseal(sealed, store)


@pytest.mark.parametrize("offset", range(0, 512, 3))
def test_a_flipped_bit_anywhere_in_the_header(
    sealed_once: tuple[Path, Store], offset: int
) -> None:
    path, store = sealed_once
    _flip(path, offset, offset % 8)
    try:
        _refused(path, VmsecError, lambda: unseal(path, store))
        with pytest.raises((AlreadySealedError, HeaderError)):
            seal(path, store, generation=2)
        try:
            state = read_status(ImageRef(path), settings=images.SETTINGS).state
        except HeaderError:
            state = "sealed"
        assert state == "sealed"
    finally:
        _flip(path, offset, offset % 8)


@pytest.fixture(scope="module")
def sealed_once(
    plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Store]:
    path = tmp_path_factory.mktemp("once") / "disk.img"
    store = Store()
    seal(_copy(plain, path), store)
    return path, store


def test_a_damaged_embedded_manifest_falls_back_to_the_copy(
    sealed: Path, store: Store, plain: Path
) -> None:
    place = _manifest_place(sealed)
    _flip(sealed, place + 200)
    _refused(sealed, ManifestError, lambda: unseal(sealed, None))
    unseal(sealed, store)
    assert digest(sealed) == digest(plain)


def _manifest_place(path: Path) -> int:
    with path.open("rb") as file:
        return parse_header(file.read(4096), target="x").manifest.offset


def test_all_manifests_damaged(sealed: Path, store: Store) -> None:
    _flip(sealed, _manifest_place(sealed) + 200)
    blob = bytearray(store.blobs[0])
    blob[300] ^= 1
    store.blobs[:] = [bytes(blob), b"", b"garbage" * 100, bytes(blob[:90])]
    _refused(sealed, ManifestError, lambda: unseal(sealed, store))


def test_a_manifest_of_an_older_generation(
    disk: Path, store: Store, plain: Path
) -> None:
    seal(disk, store, generation=1)
    unseal(disk, store)
    old = list(store.blobs)
    seal(disk, store, generation=2)
    _flip(disk, _manifest_place(disk) + 200)
    store.blobs[:] = old
    _refused(disk, ManifestError, lambda: unseal(disk, store))
    assert digest(plain) != digest(disk)


def test_a_header_of_an_older_generation(disk: Path, store: Store) -> None:
    """Rolled back LBA 0 over newer ciphertext."""
    seal(disk, store, generation=1)
    with disk.open("rb") as file:
        header = file.read(512)
    unseal(disk, store)
    seal(disk, store, generation=2)
    with disk.open("r+b") as file:
        file.write(header)
    _refused(disk, IntegrityError, lambda: unseal(disk, store))


def test_extents_swapped(sealed: Path, store: Store) -> None:
    with sealed.open("rb") as file:
        header = parse_header(file.read(4096), target="x")
    cipher = make_cipher(KEY, header.context)
    manifest = read_blob(store.blobs[0], header.context, cipher.keys)
    same = [e for e in manifest.extents if e.extent.length == 4096]
    first, second = same[0].extent.offset, same[-1].extent.offset
    with sealed.open("r+b") as file:
        file.seek(first)
        a = file.read(4096)
        file.seek(second)
        b = file.read(4096)
        file.seek(first)
        file.write(b)
        file.seek(second)
        file.write(a)
    _refused(sealed, IntegrityError, lambda: unseal(sealed, store))


def test_sealed_for_another_vm(sealed: Path, store: Store) -> None:
    other = UUID(int=9)

    def call() -> object:
        return unseal_image(
            ImageRef(sealed),
            vm=other,
            keys=lambda *_: KEY,
            settings=images.SETTINGS,
            manifests=store,
        )

    text = _refused(sealed, ForeignImageError, call)
    assert str(VM) in text


def test_truncated_image(sealed: Path, store: Store) -> None:
    os.truncate(sealed, 30 * images.MIB)
    _refused(sealed, CorruptImageError, lambda: unseal(sealed, store))


def test_a_plain_image_is_not_unsealed(disk: Path, store: Store) -> None:
    _refused(disk, NotSealedError, lambda: unseal(disk, store))


def test_nothing_is_sealed_twice(sealed: Path, store: Store) -> None:
    _refused(
        sealed, AlreadySealedError, lambda: seal(sealed, store, generation=2)
    )


def test_lba0_overwritten_is_not_plain(sealed: Path, store: Store) -> None:
    with sealed.open("r+b") as file:
        file.write(bytes(512))
    text = _refused(
        sealed, HeaderError, lambda: seal(sealed, store, generation=2)
    )
    assert "overwritten" in text


def test_a_stale_journal_is_never_replayed(
    disk: Path, store: Store, plain: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "disk.img.vmsec-journal"
    _hot_journal(disk, store, journal)
    shutil.copy(plain, disk)
    _flip(disk, 100)
    before = digest(disk)
    with pytest.raises(StaleJournalError):
        recover_image(ImageRef(disk), settings=images.SETTINGS)
    with pytest.raises(StaleJournalError):
        seal(disk, store, generation=2)
    assert digest(disk) == before
    assert journal.exists()


def test_a_journal_for_another_size(
    disk: Path, store: Store, tmp_path: Path
) -> None:
    _hot_journal(disk, store, tmp_path / "disk.img.vmsec-journal")
    os.truncate(disk, 65 * images.MIB)
    before = digest(disk)
    with pytest.raises(StaleJournalError):
        recover_image(ImageRef(disk), settings=images.SETTINGS)
    assert digest(disk) == before


def test_a_damaged_journal_is_refused(
    disk: Path, store: Store, tmp_path: Path
) -> None:
    journal = tmp_path / "disk.img.vmsec-journal"
    _hot_journal(disk, store, journal)
    whole = journal.read_bytes()
    for offset in (3, 20, 4096, len(whole) // 2, len(whole) - 3):
        _flip(journal, offset)
        _refused(
            disk,
            VmsecError,
            lambda: recover_image(ImageRef(disk), settings=images.SETTINGS),
        )
        journal.write_bytes(whole)
    assert (
        recover_image(ImageRef(disk), settings=images.SETTINGS).state
        == "sealed"
    )


def _hot_journal(disk: Path, store: Store, journal: Path) -> None:
    """Seal, and put the journal back, as if its removal had been lost."""
    kept: list[bytes] = []
    remove = journalfile.FileJournal.remove

    def keep(self: journalfile.FileJournal) -> None:
        kept.append(journal.read_bytes())
        remove(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journalfile.FileJournal, "remove", keep)
        seal(disk, store)
    journal.write_bytes(kept[0])


def test_hot_journal_is_shown_and_replayed(
    disk: Path, store: Store, tmp_path: Path, plain: Path
) -> None:
    _hot_journal(disk, store, tmp_path / "disk.img.vmsec-journal")
    status = read_status(ImageRef(disk), settings=images.SETTINGS)
    assert status.state == "interrupted"
    report = recover_image(ImageRef(disk), settings=images.SETTINGS)
    assert (report.action, report.state) == ("replayed", "sealed")
    unseal(disk, store)
    assert digest(disk) == digest(plain)


def test_a_full_disk_leaves_the_image(
    plain: Path, tmp_path: Path, store: Store
) -> None:
    require_root()
    mount = tmp_path / "small"
    mount.mkdir()
    images.run("mount", "-t", "tmpfs", "-o", "size=8m", "none", mount)
    try:
        path = _copy(plain, mount / "disk.img")
        room = os.statvfs(mount)
        with (mount / "filler").open("wb") as file:
            file.write(bytes(room.f_bavail * room.f_frsize - 65536))
        _refused(path, ImageFullError, lambda: seal(path, store))
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
            while not _is_locked(disk):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            _refused(disk, ImageBusyError, lambda: seal(disk, store))
        finally:
            qemu.terminate()
    seal(disk, store)


def _is_locked(path: Path) -> bool:
    """Whether somebody does not share writing; asks without locking."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 201, 1, 0)
    with path.open("r+b") as file:
        answer = fcntl.fcntl(file, 36, question)  # F_OFD_GETLK
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def _qemu_io_refused(path: Path) -> bool:
    probe = ["qemu-io", "-f", "raw", "-c", "read 0 512", str(path)]
    done = subprocess.run(probe, capture_output=True, check=False)
    return done.returncode != 0


def test_qemu_is_kept_out_while_we_hold_the_lock(disk: Path) -> None:
    require_tool("qemu-io")
    assert not _qemu_io_refused(disk)
    with open_device(ImageRef(disk), writable=True):
        assert _qemu_io_refused(disk)
        with pytest.raises(ImageBusyError):
            seal(disk, Store())
    assert not _qemu_io_refused(disk)


def test_an_image_too_small_to_be_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    for size in (0, 1, 511, 512, 4095, 5000):
        path.write_bytes(bytes(size))
        _refused(path, VmsecError, lambda: seal(path, Store()))


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


def test_a_sealed_image_is_not_inspected(sealed: Path) -> None:
    _refused(
        sealed,
        CorruptImageError,
        lambda: inspect_image(ImageRef(sealed), settings=images.SETTINGS),
    )


def test_a_failing_manifest_store_leaves_the_image(disk: Path) -> None:
    class Full(Store):
        def save(self, blob: bytes) -> None:
            raise ImageFullError(f"no space for {len(blob)} bytes of manifest")

    _refused(disk, ImageFullError, lambda: seal(disk, Full()))


def test_the_key_is_in_no_error(sealed: Path, store: Store) -> None:
    secret = SecretBytes(b"S3cr3tS3cr3tS3cr3tS3cr3tS3cr3t32")
    with pytest.raises(IntegrityError) as caught:
        _unseal_with(sealed, secret, store)
    assert b"S3cr3t" not in repr(caught.value).encode()
    assert "S3cr3t" not in repr(secret)


def test_seal_needs_a_key_of_32_bytes(disk: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_image(
            ImageRef(disk),
            SealIdentity(VM, DISK, 1, 1),
            SecretBytes(b"short"),
            settings=images.SETTINGS,
            manifests=None,
        )
