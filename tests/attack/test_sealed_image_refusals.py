"""Damaged, forged or foreign sealed images: refused, the bytes unchanged."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support import images
from tests.support.images import DISK, KEY, VM, Store, digest, seal, unseal
from vmsec.errors import (
    AlreadySealedError,
    CorruptImageError,
    ForeignImageError,
    HeaderError,
    IntegrityError,
    ManifestError,
    NotSealedError,
    VmsecError,
)
from vmsec.sealing.engine import (
    rekey_image,
    seal_image,
    unseal_image,
    verify_image,
)
from vmsec.sealing.header import parse_header
from vmsec.sealing.inspection import inspect_image, read_status
from vmsec.sealing.manifest import read_blob
from vmsec.sealing.model import ImageRef, SealIdentity
from vmsec.sealing.work import make_cipher
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from pathlib import Path

from tests.support.refusal import copy, flip, manifest_place, refused

WRONG = SecretBytes(bytes(32))


def _unseal_with(path: Path, key: SecretBytes, store: Store) -> object:
    return unseal_image(
        ImageRef(path),
        vm=VM,
        keys=lambda *_: key,
        settings=images.SETTINGS,
        manifests=store,
    )


def test_wrong_key(sealed: Path, store: Store) -> None:
    refused(sealed, IntegrityError, lambda: _unseal_with(sealed, WRONG, store))


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

    refused(sealed, IntegrityError, rekey)
    refused(sealed, IntegrityError, verify)


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
        flip(sealed, offset, bit)
        refused(sealed, IntegrityError, lambda: unseal(sealed, store))
        flip(sealed, offset, bit)
    unseal(sealed, store)


@pytest.mark.parametrize("offset", range(0, 512, 3))
def test_a_flipped_bit_anywhere_in_the_header(
    sealed_once: tuple[Path, Store], offset: int
) -> None:
    path, store = sealed_once
    flip(path, offset, offset % 8)
    try:
        refused(path, VmsecError, lambda: unseal(path, store))
        with pytest.raises((AlreadySealedError, HeaderError)):
            seal(path, store, generation=2)
        try:
            state = read_status(ImageRef(path), settings=images.SETTINGS).state
        except HeaderError:
            state = "sealed"
        assert state == "sealed"
    finally:
        flip(path, offset, offset % 8)


@pytest.fixture(scope="module")
def sealed_once(
    plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Store]:
    path = tmp_path_factory.mktemp("once") / "disk.img"
    store = Store()
    seal(copy(plain, path), store)
    return path, store


def test_a_damaged_embedded_manifest_falls_back_to_the_copy(
    sealed: Path, store: Store, plain: Path
) -> None:
    place = manifest_place(sealed)
    flip(sealed, place + 200)
    refused(sealed, ManifestError, lambda: unseal(sealed, None))
    unseal(sealed, store)
    assert digest(sealed) == digest(plain)


def test_all_manifests_damaged(sealed: Path, store: Store) -> None:
    flip(sealed, manifest_place(sealed) + 200)
    blob = bytearray(store.blobs[0])
    blob[300] ^= 1
    store.blobs[:] = [bytes(blob), b"", b"garbage" * 100, bytes(blob[:90])]
    refused(sealed, ManifestError, lambda: unseal(sealed, store))


def test_a_manifest_of_an_older_generation(
    disk: Path, store: Store, plain: Path
) -> None:
    seal(disk, store, generation=1)
    unseal(disk, store)
    old = list(store.blobs)
    seal(disk, store, generation=2)
    flip(disk, manifest_place(disk) + 200)
    store.blobs[:] = old
    refused(disk, ManifestError, lambda: unseal(disk, store))
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
    refused(disk, IntegrityError, lambda: unseal(disk, store))


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
    refused(sealed, IntegrityError, lambda: unseal(sealed, store))


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

    text = refused(sealed, ForeignImageError, call)
    assert str(VM) in text


def test_truncated_image(sealed: Path, store: Store) -> None:
    os.truncate(sealed, 30 * images.MIB)
    refused(sealed, CorruptImageError, lambda: unseal(sealed, store))


def test_a_plain_image_is_not_unsealed(disk: Path, store: Store) -> None:
    refused(disk, NotSealedError, lambda: unseal(disk, store))


def test_nothing_is_sealed_twice(sealed: Path, store: Store) -> None:
    refused(
        sealed, AlreadySealedError, lambda: seal(sealed, store, generation=2)
    )


def test_lba0_overwritten_is_not_plain(sealed: Path, store: Store) -> None:
    with sealed.open("r+b") as file:
        file.write(bytes(512))
    text = refused(
        sealed, HeaderError, lambda: seal(sealed, store, generation=2)
    )
    assert "overwritten" in text


def test_a_sealed_image_is_not_inspected(sealed: Path) -> None:
    refused(
        sealed,
        CorruptImageError,
        lambda: inspect_image(ImageRef(sealed), settings=images.SETTINGS),
    )


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
