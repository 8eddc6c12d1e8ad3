"""An image and its hot journal part: renamed, copied, linked, replaced.

The journal lies beside the image's name, so whoever comes by another name
does not see it. Nothing may be lost by that, and no disk that happens to have
the name may be overwritten.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import DISK, KEY, VM, Store, digest, seal, unseal
from tests.support.refusal import copy, flip, half_sealed, hot_journal, refused
from tests.support.tools import require_root
from vmsec.errors import (
    AlreadySealedError,
    IntegrityError,
    StaleJournalError,
)
from vmsec.sealing.engine import recover_image, rekey_image, verify_image
from vmsec.sealing.inspection import read_status
from vmsec.sealing.model import ImageRef, SealIdentity
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def journal(disk: Path) -> Path:
    return disk.with_name(disk.name + ".vmsec-journal")


def _recover(disk: Path) -> str:
    return recover_image(ImageRef(disk), settings=images.SETTINGS).action


def _rekey(disk: Path, store: Store) -> None:
    rekey_image(
        ImageRef(disk),
        SealIdentity(VM, DISK, 2, 2),
        keys=lambda *_: KEY,
        settings=images.SETTINGS,
        manifests=store,
    )


def test_a_half_sealed_image_recovers_with_its_journal(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    half_sealed(disk, plain, store, journal)
    assert _recover(disk) == "replayed"
    unseal(disk, None)
    assert digest(disk) == digest(plain)


@pytest.mark.parametrize("rekeyed", [False, True])
def test_renamed_without_its_journal_it_still_unseals(
    disk: Path, store: Store, plain: Path, journal: Path, rekeyed: bool
) -> None:
    """DESIGN 3.5: each extent is decided for itself."""
    half_sealed(disk, plain, store, journal)
    moved = disk.rename(disk.with_name("moved.img"))
    if rekeyed:
        _rekey(moved, store)
        verify_image(
            ImageRef(moved),
            keys=lambda *_: KEY,
            settings=images.SETTINGS,
            manifests=store,
        )
    unseal(moved, store)
    assert digest(moved) == digest(plain)


def test_verify_calls_a_half_sealed_image_not_sealed(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    half_sealed(disk, plain, store, journal)
    moved = disk.rename(disk.with_name("moved.img"))

    def verify() -> None:
        verify_image(
            ImageRef(moved),
            keys=lambda *_: KEY,
            settings=images.SETTINGS,
            manifests=store,
        )

    refused(moved, IntegrityError, verify)


def test_a_wrong_key_takes_no_plain_extent_for_right(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    half_sealed(disk, plain, store, journal)
    moved = disk.rename(disk.with_name("moved.img"))
    wrong = Store()
    wrong.blobs = list(store.blobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "KEY", SecretBytes(bytes(32)))
        refused(moved, IntegrityError, lambda: unseal(moved, wrong))


def test_a_plain_extent_that_was_changed_is_refused(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    """Neither sealed nor what was sealed: not guessed at."""
    still_plain = half_sealed(disk, plain, store, journal)
    moved = disk.rename(disk.with_name("moved.img"))
    flip(moved, still_plain[0] + 100)
    refused(moved, IntegrityError, lambda: unseal(moved, store))


def test_a_hard_link_hides_the_journal_and_loses_nothing(
    disk: Path, store: Store, plain: Path, journal: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "disk.img"
    other.parent.mkdir()
    half_sealed(disk, plain, store, journal)
    os.link(disk, other)
    refused(other, AlreadySealedError, lambda: seal(other, store))
    unseal(other, store)
    assert digest(disk) == digest(plain)
    assert _recover(disk) == "discarded"
    assert digest(disk) == digest(plain)


def test_sealed_anew_by_another_name_the_old_journal_is_stale(
    disk: Path, store: Store, plain: Path, journal: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "disk.img"
    other.parent.mkdir()
    half_sealed(disk, plain, store, journal)
    os.link(disk, other)
    unseal(other, store)
    seal(other, store, generation=2)
    refused(disk, StaleJournalError, lambda: _recover(disk))
    unseal(other, store)
    assert digest(disk) == digest(plain)


def test_a_symbolic_link_finds_the_journal(
    disk: Path, store: Store, plain: Path, journal: Path, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "link.img"
    link.parent.mkdir()
    link.symlink_to(disk)
    half_sealed(disk, plain, store, journal)
    status = read_status(ImageRef(link), settings=images.SETTINGS)
    assert status.state == "interrupted"
    assert _recover(link) == "replayed"
    assert not journal.exists()


def test_a_bind_mounted_directory_finds_the_journal(
    disk: Path, store: Store, plain: Path, journal: Path, tmp_path: Path
) -> None:
    require_root()
    half_sealed(disk, plain, store, journal)
    mount = tmp_path / "mount"
    mount.mkdir()
    images.run("mount", "--bind", disk.parent, mount)
    try:
        assert _recover(mount / disk.name) == "replayed"
    finally:
        images.run("umount", mount)
    assert not journal.exists()


def _xfs(first: bytearray) -> None:
    first[:512] = b"XFSB" + bytes(range(200)) + bytes(308)


def _luks(first: bytearray) -> None:
    first[:512] = b"LUKS\xba\xbe\0\2" + bytes(range(1, 200)) + bytes(305)


def _qcow2(first: bytearray) -> None:
    first[:512] = b"QFI\xfb\0\0\0\3" + bytes(504)


def _text(first: bytearray) -> None:
    first[:512] = b"notes of somebody\n".ljust(512, b".")


def _empty(first: bytearray) -> None:
    first[:512] = bytes(512)


def _boot_record(first: bytearray) -> None:
    first[440:444] = b"NewD"


REPLACEMENTS = (_xfs, _luks, _qcow2, _text, _empty, _boot_record)


@pytest.mark.parametrize("change", REPLACEMENTS)
def test_another_disk_of_the_same_name_is_never_overwritten(
    disk: Path,
    store: Store,
    plain: Path,
    journal: Path,
    change: Callable[[bytearray], None],
) -> None:
    """Most volumes have no boot record; they are not torn marks."""
    hot_journal(disk, store, journal)
    disk.unlink()
    copy(plain, disk)
    with disk.open("r+b") as file:
        first = bytearray(file.read(4096))
        change(first)
        file.seek(0)
        file.write(first)
        file.seek(images.MIB + 1080)
        file.write(b"somebody has used it")
    refused(disk, StaleJournalError, lambda: _recover(disk))
    refused(disk, StaleJournalError, lambda: seal(disk, store, generation=2))


def test_a_copy_of_the_plain_disk_at_the_old_name_drops_the_journal(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    half_sealed(disk, plain, store, journal)
    disk.unlink()
    shutil.copy(plain, disk)
    assert _recover(disk) == "discarded"
    assert digest(disk) == digest(plain)


def test_a_torn_mark_is_replayed(
    disk: Path, store: Store, plain: Path, journal: Path
) -> None:
    """Half of the mark, or garbage, over an untouched disk."""
    hot_journal(disk, store, journal)
    mark, whole = disk.read_bytes()[:512], journal.read_bytes()
    for first in (mark[:256], b"", mark[:300]):
        copy(plain, disk)
        with disk.open("r+b") as file:
            file.write(first or os.urandom(512))
        journal.write_bytes(whole)
        assert _recover(disk) == "replayed"
        unseal(disk, store)
        assert digest(disk) == digest(plain)
