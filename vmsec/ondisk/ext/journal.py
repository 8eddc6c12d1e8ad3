"""The volume as the guest will see it once it has replayed its journal.

A guest that was cut off leaves committed metadata in its journal (jbd2) that
has not reached its place. Mapping the tables as they lie would miss the
blocks that only the journal knows, for instance of a new directory, though
their names may be on the disk already. So the journal is replayed here, in
memory, onto a read-only view; nothing is written.

Like jbd2, whole transactions count only: the replay ends at the first block
whose magic or sequence is wrong, and revoked blocks are left alone. Unlike
jbd2, checksums in the journal are not verified (a wrong one makes the guest's
kernel refuse the mount). Fast commits need no replay: what they log has not
been written to its place before the next whole commit.

Source:
    Linux Documentation/filesystems/ext4/journal.rst; fs/jbd2/recovery.c.
    All integers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.overlay import OverlaySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.ext.layout import Int64Array
    from vmsec.ondisk.source import BlockSource

MAX_JOURNAL_BLOCKS: Final = 1 << 20
"""Four times the most that mke2fs chooses by itself."""

MAX_REVOKED: Final = 1 << 20
"""Revoked blocks in one journal: 4 GiB of freed metadata, 4 KiB each."""

_MAGIC = 0xC03B3998
_MAGIC_BYTES = _MAGIC.to_bytes(4, "big")
_HEADER = struct.Struct(">III")
_SUPERBLOCK = struct.Struct(">12xIIIII4xII")
_DESCRIPTOR, _COMMIT, _SUPERBLOCK_V1, _SUPERBLOCK_V2, _REVOKE = range(1, 6)

_INCOMPAT_64BIT = 0x2
_INCOMPAT_CHECKSUM_V2 = 0x8
_INCOMPAT_CHECKSUM_V3 = 0x10
_INCOMPAT_FAST_COMMIT = 0x20
_INCOMPAT_KNOWN = 0x3F
_DEFAULT_FAST_COMMIT_BLOCKS = 256
_MIN_JOURNAL_BLOCKS = 1024

_TAG_ESCAPED, _TAG_SAME_UUID, _TAG_LAST = 0x1, 0x2, 0x8
_UUID_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Geometry:
    """The ring of log blocks: ``first`` up to, not including, ``end``."""

    first: int
    end: int
    start: int
    sequence: int
    incompat: int


@dataclass(slots=True)
class _Replay:
    """What the committed transactions say.

    ``updates`` is block -> (sequence, log block, escaped), the newest;
    ``revoked`` is block -> sequence of the newest revocation.
    """

    updates: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    revoked: dict[int, int] = field(default_factory=dict)


class ReplayedSource(OverlaySource):
    """A source in which committed journal blocks stand at their places.

    Args:
        source: The volume.
        block_bytes: Size of a block.
        updates: Block of the volume -> (block that holds its newest content,
            whether its first word was escaped).
    """

    def __init__(
        self,
        source: BlockSource,
        block_bytes: int,
        updates: dict[int, tuple[int, bool]],
    ) -> None:
        super().__init__(source, block_bytes, updates)
        self._updates = updates

    def _read_block(self, block: int) -> bytes:
        """Read the newest content of a block from the journal."""
        log_block, escaped = self._updates[block]
        content = self._source.read_at(log_block * self._size, self._size)
        return _MAGIC_BYTES + content[4:] if escaped else content


def replay_journal(
    source: BlockSource, block_bytes: int, log: Int64Array
) -> ReplayedSource:
    """Return the volume as it is after recovery.

    Args:
        source: The volume.
        block_bytes: Size of its blocks.
        log: The journal's blocks, in file order.

    Raises:
        CorruptImageError: The journal is not one; the guest could not mount.
        UnsupportedFormatError: It has features that are not understood.
        LimitExceededError: A number passes a limit.
    """
    ring = _Log(source, block_bytes, log)
    geometry = ring.read_geometry()
    replay = _Replay()
    if geometry.start:
        for transaction in ring.read_transactions(geometry):
            _apply(replay, *transaction)
    count = source.size_bytes // block_bytes
    updates = {
        block: (log_block, escaped)
        for block, (sequence, log_block, escaped) in replay.updates.items()
        if block < count and not _is_revoked(replay, block, sequence)
    }
    return ReplayedSource(source, block_bytes, updates)


_Updates = dict[int, tuple[int, bool]]


def _apply(
    replay: _Replay, sequence: int, updates: _Updates, revoked: set[int]
) -> None:
    """Take over one committed transaction."""
    for block, (log_block, escaped) in updates.items():
        replay.updates[block] = (sequence, log_block, escaped)
    for block in revoked:
        replay.revoked[block] = sequence
    _require_few(len(replay.revoked))


def _require_few(revoked: int) -> None:
    """Bound the memory for revocations."""
    require_limit(revoked, MAX_REVOKED, "the number of revoked blocks")


def _is_revoked(replay: _Replay, block: int, sequence: int) -> bool:
    """Whether a revocation is as new as the update (tid_gt, jbd2.h)."""
    revoked = replay.revoked.get(block)
    return revoked is not None and not 0 < (sequence - revoked) % 2**32 < 2**31


class _Log:
    """The journal file as an array of blocks."""

    def __init__(
        self, source: BlockSource, block_bytes: int, log: Int64Array
    ) -> None:
        self._source, self._size = source, block_bytes
        self._log: list[int] = log.tolist()

    def read_geometry(self) -> _Geometry:
        """Read and check the journal's superblock (journal.rst)."""
        if not self._log:
            raise _corrupt("it is empty")
        data = self._read(0)
        magic, kind, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC or kind not in (_SUPERBLOCK_V1, _SUPERBLOCK_V2):
            raise _corrupt("its superblock is missing")
        size, length, first, sequence, start, _, incompat = (
            _SUPERBLOCK.unpack_from(data)
        )
        if kind == _SUPERBLOCK_V1:
            incompat = 0
        if incompat & ~_INCOMPAT_KNOWN:
            raise UnsupportedFormatError(
                f"the ext journal has unknown features {incompat:#x}; the "
                "file system cannot be sealed before the guest unmounts it"
            )
        end = length
        if incompat & _INCOMPAT_FAST_COMMIT:
            (fast,) = struct.unpack_from(">I", data, 0x54)
            fast = fast or _DEFAULT_FAST_COMMIT_BLOCKS
            if length - fast >= _MIN_JOURNAL_BLOCKS:
                end = length - fast
        if size != self._size or not 0 < first < end <= len(self._log):
            raise _corrupt("its size is wrong")
        if start and not first <= start < end:
            raise _corrupt("it begins outside itself")
        return _Geometry(first, end, start, sequence, incompat)

    def read_transactions(
        self, ring: _Geometry
    ) -> Iterator[tuple[int, _Updates, set[int]]]:
        """Yield each committed transaction: sequence, updates, revocations.

        Ends after one round at the latest.
        """
        at, sequence, left = ring.start, ring.sequence, ring.end - ring.first
        updates: _Updates = {}
        revoked: set[int] = set()
        while left > 0:
            data = self._read(at)
            magic, kind, found = _HEADER.unpack_from(data)
            if magic != _MAGIC or found != sequence:
                return
            at, left = _step(ring, at), left - 1
            if kind == _DESCRIPTOR:
                for block, escaped in _tags(data, ring.incompat):
                    updates[block] = (self._log[at], escaped)
                    at, left = _step(ring, at), left - 1
            elif kind == _REVOKE:
                revoked.update(_revocations(data, ring.incompat))
                _require_few(len(revoked))
            elif kind == _COMMIT:
                yield sequence, updates, revoked
                sequence, updates, revoked = (sequence + 1) % 2**32, {}, set()
            else:
                return

    def _read(self, index: int) -> bytes:
        """Read one block of the journal file."""
        return self._source.read_at(self._log[index] * self._size, self._size)


def _step(ring: _Geometry, at: int) -> int:
    """Return the log block after ``at``, round the ring."""
    return at + 1 if at + 1 < ring.end else ring.first


def _tags(data: bytes, incompat: int) -> Iterator[tuple[int, bool]]:
    """Yield block and escape flag of each tag of a descriptor block."""
    has_checksums = incompat & (_INCOMPAT_CHECKSUM_V2 | _INCOMPAT_CHECKSUM_V3)
    end = len(data) - (4 if has_checksums else 0)
    at, size = _HEADER.size, _tag_bytes(incompat)
    data += bytes(4)  # the shortest tag has no upper half
    while at + size <= end:
        low, flags, high = struct.unpack_from(">III", data, at)
        if not incompat & _INCOMPAT_CHECKSUM_V3:
            flags &= 0xFFFF  # its upper half is a checksum
        if not incompat & _INCOMPAT_64BIT:
            high = 0
        yield low | high << 32, bool(flags & _TAG_ESCAPED)
        if flags & _TAG_LAST:
            return
        at += size + (0 if flags & _TAG_SAME_UUID else _UUID_BYTES)


def _tag_bytes(incompat: int) -> int:
    """Return the size of a tag (``journal_tag_bytes``, fs/jbd2)."""
    if incompat & _INCOMPAT_CHECKSUM_V3:
        return 16
    size = 8 + (2 if incompat & _INCOMPAT_CHECKSUM_V2 else 0)
    return size + (4 if incompat & _INCOMPAT_64BIT else 0)


def _revocations(data: bytes, incompat: int) -> list[int]:
    """Return the blocks of a revocation block."""
    (used,) = struct.unpack_from(">I", data, _HEADER.size)
    start = _HEADER.size + 4
    if not start <= used <= len(data):
        raise _corrupt("a revocation block is wrong")
    form = ">u8" if incompat & _INCOMPAT_64BIT else ">u4"
    body = data[start : used - (used - start) % np.dtype(form).itemsize]
    blocks: list[int] = np.frombuffer(body, dtype=form).tolist()
    return blocks


def _corrupt(reason: str) -> CorruptImageError:
    """Say what is wrong and what to do."""
    return CorruptImageError(
        f"ext journal: {reason}; run e2fsck in the guest first"
    )
