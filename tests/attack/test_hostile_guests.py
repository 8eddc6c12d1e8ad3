"""A guest writes vmsec's own signs into its disk, or the disk is resized.

A guest may make its own disk refuse to start; it is told why. It harms
nobody else, and what it wrote is never taken for authentic.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support import images
from tests.support.images import (
    DISK,
    KEY,
    MIB,
    VM,
    Store,
    digest,
    seal,
    unseal,
)
from tests.support.refusal import copy, flip, refused
from vmsec.crypto.context import SealContext
from vmsec.errors import (
    AlreadySealedError,
    HeaderError,
    IntegrityError,
    ManifestError,
    VmsecError,
)
from vmsec.ondisk.extent import Level
from vmsec.sealing.engine import recover_image, rekey_image
from vmsec.sealing.header import MAGIC, STUB, EmbeddedManifest, SealHeader
from vmsec.sealing.inspection import read_status
from vmsec.sealing.manifest import BLOB_MAGIC
from vmsec.sealing.model import ImageRef, SealIdentity

if TYPE_CHECKING:
    from pathlib import Path


def _write(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "sign"), [(256, MAGIC), (0, STUB), (0, STUB + MAGIC)]
)
def test_a_planted_sign_is_a_damaged_mark(
    disk: Path, store: Store, offset: int, sign: bytes
) -> None:
    _write(disk, offset, sign)
    text = refused(disk, HeaderError, lambda: seal(disk, store))
    assert "seal header is damaged" in text or "newer vmsec" in text
    refused(disk, HeaderError, lambda: unseal(disk, store))


def _mark(place: EmbeddedManifest, generation: int = 7) -> bytes:
    """A well-formed mark under a key of the guest's own."""
    context = SealContext(VM, DISK, generation, 1, b"s" * 16)
    header = SealHeader(context, Level.METADATA, 64 * MIB, 512, place)
    return header.pack(b"k" * 32)


PLACES = [
    EmbeddedManifest(0, 0, bytes(32)),
    EmbeddedManifest(0, 64 * MIB, bytes(32)),
    EmbeddedManifest(64 * MIB - 1, 1, bytes(32)),
    EmbeddedManifest(8192, 4096, b"d" * 32),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_mark_is_not_authentic(
    disk: Path, store: Store, place: EmbeddedManifest
) -> None:
    """Its guest does not start, and it is told that the data was changed."""
    _write(disk, 0, _mark(place))
    refused(disk, AlreadySealedError, lambda: seal(disk, store))
    refused(disk, IntegrityError, lambda: unseal(disk, store))


def test_a_planted_mark_with_the_last_generation(
    disk: Path, store: Store
) -> None:
    """It is nobody's: not remembered, so that counting goes on."""
    _write(disk, 0, _mark(PLACES[0], (1 << 64) - 1))
    refused(disk, HeaderError, lambda: unseal(disk, store))
    with pytest.raises(HeaderError):
        read_status(ImageRef(disk), settings=images.SETTINGS)


@pytest.mark.parametrize("place", [8192, MIB, MIB + 65536])
def test_a_planted_manifest_is_refused_in_words(
    disk: Path, store: Store, place: int
) -> None:
    _write(disk, place, BLOB_MAGIC)
    text = refused(disk, VmsecError, lambda: seal(disk, store))
    assert len(text) > 20


def test_its_own_old_state_planted_by_a_guest(
    disk: Path, store: Store, plain: Path, tmp_path: Path
) -> None:
    """All of an older sealed disk is the restore of a backup, no more."""
    seal(disk, store)
    old = copy(disk, tmp_path / "old.img")
    unseal(disk, store)
    disk.unlink()
    copy(old, disk)
    refused(disk, AlreadySealedError, lambda: seal(disk, store, generation=2))
    unseal(disk, store)
    assert digest(disk) == digest(plain)


def test_an_old_mark_over_a_running_guests_disk(
    disk: Path, store: Store
) -> None:
    """The mark alone: plain extents that have changed are not accepted."""
    seal(disk, store)
    mark = disk.read_bytes()[:512]
    unseal(disk, store)
    _write(disk, 0, mark)
    flip(disk, MIB + 1024 + 4)
    refused(disk, (IntegrityError, ManifestError), lambda: unseal(disk, store))


@pytest.mark.parametrize("more", [1, 511, 512, MIB, 64 * MIB])
def test_grown_while_sealed_it_unseals(
    disk: Path, store: Store, plain: Path, tmp_path: Path, more: int
) -> None:
    """As if the plain disk had been grown."""
    wanted = copy(plain, tmp_path / "wanted.img")
    os.truncate(wanted, 64 * MIB + more)
    seal(disk, store)
    os.truncate(disk, 64 * MIB + more)
    unseal(disk, store)
    assert digest(disk) == digest(wanted)


def test_grown_while_sealed_it_takes_a_new_key(
    disk: Path, store: Store, plain: Path, tmp_path: Path
) -> None:
    wanted = copy(plain, tmp_path / "wanted.img")
    os.truncate(wanted, 80 * MIB)
    seal(disk, store)
    os.truncate(disk, 80 * MIB)
    rekey_image(
        ImageRef(disk),
        SealIdentity(VM, DISK, 2, 2),
        keys=lambda *_: KEY,
        settings=images.SETTINGS,
        manifests=store,
    )
    unseal(disk, None)
    assert digest(disk) == digest(wanted)


def test_a_stale_draft_is_removed(
    disk: Path, store: Store, plain: Path
) -> None:
    draft = disk.with_name(disk.name + ".vmsec-journal.draft")
    draft.write_bytes(struct.pack("<8sI", b"\x93vmsecJ\n", 1) + bytes(9000))
    report = recover_image(ImageRef(disk), settings=images.SETTINGS)
    assert report.action == "none"
    assert not draft.exists()
    draft.write_bytes(b"older")
    seal(disk, store)
    assert not draft.exists()
    unseal(disk, store)
    assert digest(disk) == digest(plain)


def test_the_mark_of_another_vm_names_it(disk: Path, store: Store) -> None:
    context = SealContext(UUID(int=99), DISK, 1, 1, b"s" * 16)
    header = SealHeader(context, Level.METADATA, 64 * MIB, 512, PLACES[0])
    _write(disk, 0, header.pack(b"k" * 32))
    assert str(UUID(int=99)) in refused(
        disk, VmsecError, lambda: unseal(disk, store)
    )
