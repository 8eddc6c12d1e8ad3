"""One change of a disk that a power cut can only undo or complete.

LBA 0 is the commit record. The journal holds ciphertext in both directions,
and one rule serves both: **it is replayed if and only if LBA 0 holds the mark
that the journal names** (or is torn: what that means, and why it is more than
"unknown", stands at :func:`_must_replay`). So:

* sealing and re-keying (the journal holds the new bytes): J1, J2 the journal
  is durable; J3 LBA 0 gets the mark, J4 sync; then the other records, J4
  sync; J5, J6 the journal is removed. Until the mark is there no byte was
  changed and the journal is dropped; from then on it is replayed.
* unsealing (the journal holds the old bytes): J1, J2; J3 all records but
  LBA 0, J4 sync; then LBA 0, J4 sync; J5, J6. While the mark is there the
  journal is replayed, back to the sealed disk; once it is gone all else was
  durable and the journal is dropped.

A journal that comes back from the dead (its removal was lost) or one that was
never begun therefore never overwrites a disk that a guest has used since.

Invariants of DESIGN 3.7: I1 no byte of the disk is written before the journal
that covers its sector is durable; I4 the disk is synced before the journal is
removed; I6 size and identity must match; I7 the caller holds the image lock;
I8 recovery may run any number of times; I9 after an I/O error nothing more is
written: the journal stays hot.
"""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmsec.crypto.aead import RangeDigest
from vmsec.errors import EngineFaultedError, ImageError, StaleJournalError
from vmsec.sealing.header import is_marked
from vmsec.sealing.journal import HotJournal, JournalIndex, JournalWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.crypto.context import SealContext
    from vmsec.sealing.device import BlockDevice
    from vmsec.sealing.journal import JournalFiles

HELD_BYTES = 96 << 20
"""What is kept in memory between journalling and writing; the rest is read
back from the journal."""


class Direction(enum.Enum):
    """Which way a transaction goes."""

    TO_SEALED = "to-sealed"
    TO_PLAIN = "to-plain"


class Piece(NamedTuple):
    """One record: what the journal gets and what the disk gets.

    ``other`` is what the disk holds on the side that is not journalled; it
    is valid until the next piece is taken.
    """

    offset: int
    journalled: memoryview
    written: memoryview
    other: memoryview


class Marks(NamedTuple):
    """LBA 0 on both sides of the change, one logical sector each."""

    context: SealContext
    sealed: bytes
    other: bytes


class Work(Protocol):
    """What a transaction does, piece by piece."""

    @property
    def direction(self) -> Direction:
        """Which way it goes."""
        ...

    @property
    def expected_bytes(self) -> int:
        """An upper bound of what is journalled, in bytes."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """Yield every record but LBA 0, in order of offset but the last.

        Raises:
            IntegrityError: Something is wrong; nothing was written yet.
        """
        ...

    def settle(self) -> Marks:
        """After the last piece: make outside copies durable, name LBA 0."""
        ...

    def again(self, offset: int, journalled: bytes) -> memoryview | bytes:
        """Make once more what the disk gets, from what the journal got."""
        ...


def run(device: BlockDevice, files: JournalFiles, work: Work) -> None:
    """Carry out a change through the journal.

    Raises:
        ImageFullError: Before J2: nothing was changed. After it:
            :class:`EngineFaultedError`.
        EngineFaultedError: The disk failed after J2; the journal is hot.

    Crash:
        After a power cut at any instant :func:`recover` leaves the disk
        wholly on one side: the old one, or the sealed one.
    """
    writer = None
    try:
        writer = JournalWriter(files, work.expected_bytes)
        held = _journal(writer, work)
        marks = work.settle()
        writer.commit(_index(device, marks, writer))
    except BaseException:
        if not files.exists():
            files.discard_draft()
        raise
    finally:
        if writer is not None:
            writer.close()
    try:
        _apply(device, files, work, marks, held)
    except (ImageError, OSError) as err:
        raise EngineFaultedError(
            f"{device.name}: writing failed in the middle ({err}); the "
            "journal is kept; run 'vmsec image recover'"
        ) from err
    files.remove()  # J5, J6


class _Held(NamedTuple):
    offset: int
    length: int
    place: int
    written: memoryview | None


def _journal(writer: JournalWriter, work: Work) -> list[_Held]:
    """J1: journal every piece, keeping what fits into memory."""
    held, room = [], HELD_BYTES
    for piece in work.pieces():
        place = writer.append(piece.offset, piece.journalled, piece.other)
        length = len(piece.written)
        keep = piece.written if length <= room else None
        room -= length if keep is not None else 0
        held.append(_Held(piece.offset, length, place, keep))
    return held


def _index(
    device: BlockDevice, marks: Marks, writer: JournalWriter
) -> JournalIndex:
    return JournalIndex(
        context=marks.context,
        disk_bytes=device.size_bytes,
        sealed_lba0=marks.sealed,
        other_lba0=hashlib.sha256(marks.other).digest(),
        records=tuple(writer.records),
        other_key=writer.other_key,
        other_records=writer.other.digest(),
    )


def _apply(
    device: BlockDevice,
    files: JournalFiles,
    work: Work,
    marks: Marks,
    held: list[_Held],
) -> None:
    if work.direction is Direction.TO_SEALED:
        device.write_at(0, marks.sealed)  # J3
        device.sync()  # J4
    for item in held:
        data = item.written
        if data is None:
            old = files.read_draft(item.place, item.length)
            data = memoryview(work.again(item.offset, old))
        device.write_at(item.offset, data)  # J3
    device.sync()  # J4
    if work.direction is Direction.TO_PLAIN:
        device.write_at(0, marks.other)  # J3
        device.sync()  # J4


class Recovery(enum.StrEnum):
    """What recovery did."""

    NONE = "none"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


def recover(device: BlockDevice, files: JournalFiles) -> Recovery:
    """Finish or undo what a crash interrupted; needs no key.

    Returns:
        ``REPLAYED``: the disk is wholly sealed now. ``DISCARDED``: the disk
        was untouched or complete, the journal is removed. ``NONE``: nothing
        was interrupted.

    Raises:
        JournalCorruptError: The journal is damaged; nothing is changed.
        StaleJournalError: It belongs to another disk; nothing is changed.

    Crash:
        Run it again.
    """
    files.discard_draft()
    if not files.exists():
        return Recovery.NONE
    journal = HotJournal(files)
    replay = _must_replay(device, files.name, journal.index)
    files.sync_published()
    _settle_lba0(device, journal.index, replay=replay)
    if replay:
        for offset, data in journal.records():
            device.write_at(offset, data)
        device.sync()
    files.remove()
    return Recovery.REPLAYED if replay else Recovery.DISCARDED


def _settle_lba0(
    device: BlockDevice, index: JournalIndex, *, replay: bool
) -> None:
    """Make durable by what it was decided, before anything depends on it.

    Who was killed, or got an error from a sync, left an LBA 0 that may be in
    the page cache only. It is written again, because a failed sync calls its
    pages clean.
    """
    mark = index.sealed_lba0
    device.write_at(0, mark if replay else device.read_at(0, len(mark)))
    device.sync()


def _must_replay(device: BlockDevice, name: str, index: JournalIndex) -> bool:
    """Decide by LBA 0; I6.

    In both directions LBA 0 is written while all records are durably on the
    other side. So it is torn only if all of them are; anything else that is
    not known in LBA 0 (a file system without boot record, a volume header)
    is another disk's, or was written by a guest since, and is left alone.

    Raises:
        StaleJournalError: The disk is none of the journal's.
    """
    stale = StaleJournalError(
        f"{name}: belongs to another state of {device.name}; nothing is "
        "changed; remove the journal if the disk is right as it is"
    )
    if device.size_bytes != index.disk_bytes:
        raise stale
    lba0 = device.read_at(0, len(index.sealed_lba0))
    if lba0 == index.sealed_lba0:
        return True
    if hashlib.sha256(lba0).digest() == index.other_lba0:
        return False
    # A boot record or nothing was written by somebody: that is not torn.
    whole = lba0[510:512] == b"\x55\xaa" or not any(lba0)
    if (whole and not is_marked(lba0)) or not _is_other_side(device, index):
        raise stale
    return True


def _is_other_side(device: BlockDevice, index: JournalIndex) -> bool:
    """Whether every record holds what it holds on the other side."""
    digest = RangeDigest(index.other_key)
    for offset, length in index.records:
        digest.add(offset, memoryview(device.read_at(offset, length)))
    return digest.digest() == index.other_records
