"""Copies, damage and the one way to check a refusal."""

from __future__ import annotations

import fcntl
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.images import Store, digest, seal
from vmsec.sealing import journalfile
from vmsec.sealing.header import parse_header
from vmsec.sealing.journal import HotJournal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmsec.errors import VmsecError


def copy(source: Path, target: Path) -> Path:
    subprocess.run(
        ["cp", "--sparse=always", source, target], check=True
    )  # fmt: skip
    return target


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def refused(
    path: Path,
    error: type[VmsecError] | tuple[type[VmsecError], ...],
    call: Callable[[], object],
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


def is_locked(path: Path) -> bool:
    """Whether somebody does not share writing; asks without locking."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 201, 1, 0)
    with path.open("r+b") as file:
        answer = fcntl.fcntl(file, 36, question)  # F_OFD_GETLK
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def qemu_io_refused(path: Path) -> bool:
    probe = ["qemu-io", "-f", "raw", "-c", "read 0 512", str(path)]
    done = subprocess.run(probe, capture_output=True, check=False)
    return done.returncode != 0


def manifest_place(path: Path) -> int:
    with path.open("rb") as file:
        return parse_header(file.read(4096), target="x").manifest.offset


def hot_journal(disk: Path, store: Store, journal: Path) -> None:
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


def half_sealed(
    disk: Path, plain: Path, store: Store, journal: Path
) -> list[int]:
    """Seal, as if it had been killed in the middle: every other record.

    Returns:
        Where the records are that are still plain.
    """
    hot_journal(disk, store, journal)
    records = HotJournal(journalfile.FileJournal(journal)).index.records
    with plain.open("rb") as before, disk.open("r+b") as file:
        for offset, length in records[1::2]:
            before.seek(offset)
            file.seek(offset)
            file.write(before.read(length))
    return [offset for offset, _ in records[1::2]]
