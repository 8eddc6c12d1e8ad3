"""The volume as the guest will see it once it has replayed its log.

A guest that was cut off leaves committed metadata in its log that has not
reached its place. Mapping the trees as they lie would miss the blocks that
only the log knows, for instance of a new directory, though their names may be
on the disk already. So the log is replayed here, in memory, onto a read-only
view; nothing is written.

Like the kernel, committed transactions count only, buffers come before
inodes, and a buffer that was freed later (*cancelled*) is left alone. Unlike
the kernel:

- no sequence numbers are compared: all changes behind the tail are in the
  log, so that the last one wins anyway;
- of an inode only what :mod:`vmsec.ondisk.xfs.layout` lists is taken over;
- quota blocks, the lists of unlinked inodes and freshly made chunks are not
  replayed: where they lie is known without;
- intents are not finished: what they allocate is not on the disk yet, what
  they free stays in the map.

Source:
    XADS 11.3 ("Log Operations" and items); Linux
    fs/xfs/libxfs/xfs_log_format.h, fs/xfs/xfs_log_recover.c,
    xfs_buf_item_recover.c, xfs_inode_item_recover.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.overlay import OverlaySource
from vmsec.ondisk.xfs.inodelog import inode_place, patched_inode
from vmsec.ondisk.xfs.layout import BASIC_BLOCK_BYTES
from vmsec.ondisk.xfs.log import Log, log_corrupt
from vmsec.ondisk.xfs.logitem import BUFFER, INODE, read_transactions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.source import BlockSource
    from vmsec.ondisk.xfs.layout import Int64Array
    from vmsec.ondisk.xfs.log import Record
    from vmsec.ondisk.xfs.logitem import Item
    from vmsec.ondisk.xfs.superblock import Superblock

MAX_REPLAYED_BYTES: Final = 512 << 20
"""Metadata that only the log knows; bounds the memory. mkfs.xfs makes logs
of up to 2 GiB, but the kernel writes back long before they are full."""

_CHUNK_BYTES: Final = 128
"""XFS_BLF_CHUNK: what a bit of a buffer's map stands for."""

_INODE_BUFFER, _CANCEL, _QUOTA = 0x1, 0x2, 0x4 | 0x8 | 0x10
_SKIPPED = _INODE_BUFFER | _CANCEL | _QUOTA

_BUFFER = "HHHHqI"
"""``struct xfs_buf_log_format`` up to its map of chunks."""

_Place = tuple[int, int]
"""Block and number of blocks of a buffer."""


class ReplayedSource(OverlaySource):
    """A volume on which items of the log stand at their places.

    Args:
        source: The volume.
    """

    def __init__(self, source: BlockSource) -> None:
        super().__init__(source, BASIC_BLOCK_BYTES, ())
        self._content: dict[int, bytearray] = {}

    @property
    def blocks(self) -> Int64Array:
        """Numbers of the 512-byte blocks that are replaced, sorted."""
        return self._blocks

    def write(self, offset: int, data: bytes) -> None:
        """Replace bytes of the view; call :meth:`finish` before reading.

        Raises:
            LimitExceededError: More than :data:`MAX_REPLAYED_BYTES`.
            CorruptImageError: The place is not inside the volume.
        """
        size = BASIC_BLOCK_BYTES
        done = 0
        while done < len(data):
            block, start = divmod(offset + done, size)
            part = data[done : done + size - start]
            if block not in self._content:
                self._content[block] = bytearray(
                    self._source.read_at(block * size, size)
                )
                require_limit(
                    len(self._content) * size,
                    MAX_REPLAYED_BYTES,
                    "the metadata in the XFS log",
                )
            self._content[block][start : start + len(part)] = part
            done += len(part)

    def current(self, offset: int, length: int) -> bytes:
        """Read bytes as they are after all writes so far."""
        size = BASIC_BLOCK_BYTES
        first, last = offset // size, -(-(offset + length) // size)
        data = b"".join(
            self._content[block]
            if block in self._content
            else self._source.read_at(block * size, size)
            for block in range(first, last)
        )
        start = offset - first * size
        return data[start : start + length]

    def finish(self) -> None:
        """Make all writes visible to :meth:`read_at`."""
        self._blocks = np.array(sorted(self._content), dtype=np.int64)

    def _read_block(self, block: int) -> bytes:
        """Return the new content of a block."""
        return bytes(self._content[block])


class _Buffer(NamedTuple):
    """The first region of a buffer's item."""

    place: _Place
    flags: int
    chunks: list[int]


def replay_log(source: BlockSource, sb: Superblock) -> ReplayedSource | None:
    """Return the volume as it is after recovery.

    Args:
        source: The volume.
        sb: Its superblock; the log is internal.

    Returns:
        A view, or ``None`` if the guest has unmounted the volume.

    Raises:
        CorruptImageError: The log is not well formed.
        UnsupportedFormatError: It is from a machine of an unknown kind.
        LimitExceededError: A number passes a limit.
    """
    log = Log(source, sb)
    extent = log.find_extent()
    if extent is None:
        return None
    cancelled = _cancelled(log.records(extent))
    view = ReplayedSource(source)
    transactions = read_transactions(log.records(extent))
    for number, items in enumerate(transactions):
        live = _Live(view, sb, cancelled, number)
        for item in items:
            if item.kind == BUFFER:
                live.apply_buffer(item)
        for item in items:
            if item.kind == INODE:
                live.apply_inode(item)
    view.finish()
    return view


def _cancelled(records: Iterator[Record]) -> dict[_Place, int]:
    """Return the buffers that are freed, and the last transaction to do so."""
    cancelled: dict[_Place, int] = {}
    for number, items in enumerate(read_transactions(records)):
        for item in items:
            if item.kind == BUFFER:
                buffer = _buffer(item)
                if buffer.flags & _CANCEL:
                    cancelled[buffer.place] = number
    return cancelled


class _Live:
    """Applies the items of one transaction.

    Args:
        view: Receives the changes.
        sb: The superblock.
        cancelled: Buffer -> the last transaction that freed it.
        number: This transaction.
    """

    def __init__(
        self,
        view: ReplayedSource,
        sb: Superblock,
        cancelled: dict[_Place, int],
        number: int,
    ) -> None:
        self._view, self._sb = view, sb
        self._cancelled, self._number = cancelled, number

    def _is_cancelled(self, place: _Place) -> bool:
        """Whether a buffer is freed in this transaction or later."""
        return self._cancelled.get(place, -1) >= self._number

    def apply_buffer(self, item: Item) -> None:
        """Copy what was logged of a buffer (xlog_recover_do_reg_buffer)."""
        buffer = _buffer(item)
        if buffer.flags & _SKIPPED or self._is_cancelled(buffer.place):
            return
        start = self._place(*buffer.place) * BASIC_BLOCK_BYTES
        size = buffer.place[1] * BASIC_BLOCK_BYTES
        regions = iter(item.regions[1:])
        data = b""
        for previous, chunk in zip(
            [-2, *buffer.chunks], buffer.chunks, strict=False
        ):
            # Every run of bits begins a region; a long run may have many.
            if not data or chunk != previous + 1:
                data = next(regions, b"")
            place = chunk * _CHUNK_BYTES
            if len(data) < _CHUNK_BYTES or place + _CHUNK_BYTES > size:
                raise log_corrupt("a buffer's item is not whole")
            self._view.write(start + place, data[:_CHUNK_BYTES])
            data = data[_CHUNK_BYTES:]

    def apply_inode(self, item: Item) -> None:
        """Change an inode (xlog_recover_inode_commit_pass2)."""
        block, blocks, offset, fields = inode_place(item)
        if self._is_cancelled((block, blocks)):
            return
        size = self._sb.inode_bytes
        inside = 0 <= offset <= blocks * BASIC_BLOCK_BYTES - size
        if not inside or offset % size:
            raise log_corrupt("an inode lies outside its buffer")
        place = self._place(block, blocks) * BASIC_BLOCK_BYTES + offset
        inode = self._view.current(place, size)
        self._view.write(place, patched_inode(self._sb, inode, item, fields))

    def _place(self, block: int, blocks: int) -> int:
        """Return the block of a buffer that is inside the volume."""
        end = self._view.size_bytes // BASIC_BLOCK_BYTES
        if not 0 <= block <= end - blocks:
            raise log_corrupt("a buffer lies outside the volume")
        return block


def _buffer(item: Item) -> _Buffer:
    """Read the first region of a buffer's item."""
    head = item.regions[0]
    form = item.order + _BUFFER
    start = struct.calcsize(form)
    if len(head) < start:
        raise log_corrupt("a buffer's item is too short")
    _, _, flags, blocks, block, words = struct.unpack_from(form, head)
    end = start + 4 * words
    if end > len(head):
        raise log_corrupt("a buffer's map is too short")
    table = np.frombuffer(head[start:end], dtype=item.order + "u4")
    bits = np.unpackbits(table.astype("<u4").view(np.uint8), bitorder="little")
    return _Buffer((block, blocks), flags, np.flatnonzero(bits).tolist())
