"""What somebody with the image's directory may put beside the image."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Store, digest, seal, unseal
from tests.support.refusal import hot_journal, refused
from vmsec.encoding import decode, encode
from vmsec.errors import JournalCorruptError, VmsecError
from vmsec.sealing.engine import recover_image
from vmsec.sealing.inspection import read_status
from vmsec.sealing.model import ImageRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HEAD = struct.Struct("<8sIQQ32s")


def _recover(disk: Path) -> None:
    recover_image(ImageRef(disk), settings=images.SETTINGS)


def _journal(disk: Path) -> Path:
    return disk.with_name(disk.name + ".vmsec-journal")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _to_a_secret(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _empty(path: Path) -> None:
    path.touch()


PLANTED = (_fifo, _directory, _dangling, _to_a_secret, _device, _empty)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_journal_is_refused_at_once(
    disk: Path, store: Store, plant: Callable[[Path], None]
) -> None:
    """A FIFO is not waited for, a link is not followed, nothing is lost."""
    plant(_journal(disk))
    refused(disk, VmsecError, lambda: seal(disk, store))
    refused(disk, VmsecError, lambda: _recover(disk))
    refused(
        disk,
        VmsecError,
        lambda: read_status(ImageRef(disk), settings=images.SETTINGS),
    )


def test_a_link_in_the_drafts_place_is_removed_not_followed(
    disk: Path, store: Store, tmp_path: Path, plain: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    draft = _journal(disk).with_name(_journal(disk).name + ".draft")
    draft.symlink_to(victim)
    seal(disk, store)
    unseal(disk, store)
    assert victim.read_text() == "mine"
    assert digest(disk) == digest(plain)


def test_a_directory_in_the_drafts_place_is_refused(
    disk: Path, store: Store
) -> None:
    draft = _journal(disk).with_name(_journal(disk).name + ".draft")
    draft.mkdir()
    refused(disk, VmsecError, lambda: seal(disk, store))


def _forged(
    journal: Path, change: Callable[[dict[str, object]], None]
) -> None:
    """Change the index; digests are right, since nothing in it is secret."""
    whole = journal.read_bytes()
    magic, version, place, length, _ = _HEAD.unpack_from(whole)
    record = decode(whole[place : place + length], what="journal")
    change(record)
    body = encode(record)
    head = _HEAD.pack(
        magic, version, place, len(body), hashlib.sha256(body).digest()
    )
    journal.write_bytes(head + whole[_HEAD.size : place] + body)


def _shifted(record: dict[str, object], by: int) -> None:
    column = record["records"]
    assert isinstance(column, bytes)
    words = list(struct.unpack(f"<{len(column) // 8}Q", column))
    words[0] = by
    record["records"] = struct.pack(f"<{len(words)}Q", *words)


FORGED: dict[str, Callable[[dict[str, object]], None]] = {
    "a record over LBA 0": lambda r: _shifted(r, 0),
    "a record beyond the disk": lambda r: _shifted(r, 1 << 40),
    "no LBA 0": lambda r: r.update(sealed_lba0=b""),
    "an LBA 0 of a MiB": lambda r: r.update(sealed_lba0=bytes(1 << 20)),
    "fewer records": lambda r: r.update(records=b""),
    "no key for the other side": lambda r: r.update(other_key=b""),
    "a context cut short": lambda r: r.update(context=b"short"),
    "a size in words": lambda r: r.update(disk_bytes="64 MiB"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_journal_is_refused(
    disk: Path, store: Store, name: str
) -> None:
    journal = _journal(disk)
    hot_journal(disk, store, journal)
    _forged(journal, FORGED[name])
    refused(disk, JournalCorruptError, lambda: _recover(disk))


@pytest.mark.parametrize("place", [(1 << 64) - 1, 1 << 63, 1 << 62, 0])
def test_a_journals_head_that_points_nowhere(
    disk: Path, store: Store, place: int
) -> None:
    journal = _journal(disk)
    hot_journal(disk, store, journal)
    whole = bytearray(journal.read_bytes())
    struct.pack_into("<Q", whole, 12, place)
    journal.write_bytes(whole)
    refused(disk, JournalCorruptError, lambda: _recover(disk))
