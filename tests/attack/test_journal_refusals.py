"""Stale and damaged journals: refused, the bytes unchanged."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Store, digest, seal, unseal
from vmsec.errors import (
    StaleJournalError,
    VmsecError,
)
from vmsec.sealing.engine import (
    recover_image,
)
from vmsec.sealing.inspection import read_status
from vmsec.sealing.model import ImageRef

if TYPE_CHECKING:
    from pathlib import Path

from tests.support.refusal import flip, hot_journal, refused


def test_a_stale_journal_is_never_replayed(
    disk: Path, store: Store, plain: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "disk.img.vmsec-journal"
    hot_journal(disk, store, journal)
    shutil.copy(plain, disk)
    flip(disk, 100)
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
    hot_journal(disk, store, tmp_path / "disk.img.vmsec-journal")
    os.truncate(disk, 65 * images.MIB)
    before = digest(disk)
    with pytest.raises(StaleJournalError):
        recover_image(ImageRef(disk), settings=images.SETTINGS)
    assert digest(disk) == before


def test_a_damaged_journal_is_refused(
    disk: Path, store: Store, tmp_path: Path
) -> None:
    journal = tmp_path / "disk.img.vmsec-journal"
    hot_journal(disk, store, journal)
    whole = journal.read_bytes()
    for offset in (3, 20, 4096, len(whole) // 2, len(whole) - 3):
        flip(journal, offset)
        refused(
            disk,
            VmsecError,
            lambda: recover_image(ImageRef(disk), settings=images.SETTINGS),
        )
        journal.write_bytes(whole)
    assert (
        recover_image(ImageRef(disk), settings=images.SETTINGS).state
        == "sealed"
    )


def test_hot_journal_is_shown_and_replayed(
    disk: Path, store: Store, tmp_path: Path, plain: Path
) -> None:
    hot_journal(disk, store, tmp_path / "disk.img.vmsec-journal")
    status = read_status(ImageRef(disk), settings=images.SETTINGS)
    assert status.state == "interrupted"
    report = recover_image(ImageRef(disk), settings=images.SETTINGS)
    assert (report.action, report.state) == ("replayed", "sealed")
    unseal(disk, store)
    assert digest(disk) == digest(plain)
