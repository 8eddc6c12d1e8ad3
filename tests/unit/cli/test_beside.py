"""The manifest beside an image."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from vmsec.cli.beside import BesideManifestStore
from vmsec.crypto.context import SealContext, derive_seal_keys
from vmsec.ondisk.extent import Level
from vmsec.sealing.manifest import Manifest, write_blob
from vmsec.sealing.model import ImageRef, SealSettings
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    import pathlib

DISK, OTHER = UUID(int=2), UUID(int=3)


def store_for(image: pathlib.Path) -> BesideManifestStore:
    return BesideManifestStore(ImageRef(image), SealSettings())


def blob_of(disk: UUID, generation: int = 1) -> bytes:
    context = SealContext(UUID(int=1), disk, generation, 1, b"s" * 16)
    manifest = Manifest(
        context, 1 << 20, 512, Level.BOOT, bytes(512), (0, 0), ()
    )
    keys = derive_seal_keys(SecretBytes(bytes(32)), context)
    return write_blob(manifest, keys)


def test_what_is_saved_is_the_only_candidate(tmp_path: pathlib.Path) -> None:
    store = store_for(tmp_path / "disk.img")
    assert list(store.candidates()) == []
    store.save(blob_of(DISK, 1))
    store.save(blob_of(DISK, 2))
    assert list(store.candidates()) == [blob_of(DISK, 2)]
    store.discard(DISK)
    assert list(tmp_path.iterdir()) == []
    store.discard(DISK)


def test_the_only_copy_of_another_disk_is_kept(tmp_path: pathlib.Path) -> None:
    """Its image was moved away, and another one has its name now."""
    store = store_for(tmp_path / "disk[1].img")
    moved, mine = blob_of(OTHER), blob_of(DISK)
    store.save(moved)
    store.discard(DISK)
    assert list(store.candidates()) == [moved]
    store.save(mine)
    assert list(store.candidates()) == [mine, moved]
    store.discard(DISK)
    assert list(store.candidates()) == [moved]
    store.discard(OTHER)
    assert list(tmp_path.iterdir()) == []


def test_manifests_of_other_images_are_not_taken(
    tmp_path: pathlib.Path,
) -> None:
    store_for(tmp_path / "disk.img.old").save(blob_of(OTHER))
    store = store_for(tmp_path / "disk.img")
    store.save(blob_of(DISK))
    store.discard(OTHER)
    assert store_for(tmp_path / "disk.img.old").path.exists()


def test_it_is_for_its_owner_only(tmp_path: pathlib.Path) -> None:
    store = store_for(tmp_path / "disk.img")
    store.save(b"blob")
    assert store.path == tmp_path / "disk.img.vmsec-manifest"
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_link_and_its_image_share_one(tmp_path: pathlib.Path) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    link = tmp_path / "link"
    link.symlink_to(image)
    store_for(link).save(b"blob")
    assert list(store_for(image).candidates()) == [b"blob"]
