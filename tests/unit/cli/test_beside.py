"""The manifest beside an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.cli.beside import BesideManifestStore
from vmsec.sealing.model import ImageRef, SealSettings

if TYPE_CHECKING:
    import pathlib


def store_for(image: pathlib.Path) -> BesideManifestStore:
    return BesideManifestStore(ImageRef(image), SealSettings())


def test_what_is_saved_is_the_only_candidate(tmp_path: pathlib.Path) -> None:
    store = store_for(tmp_path / "disk.img")
    assert list(store.candidates()) == []
    store.save(b"first")
    store.save(b"second")
    assert list(store.candidates()) == [b"second"]
    store.discard()
    assert list(store.candidates()) == []
    store.discard()


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
