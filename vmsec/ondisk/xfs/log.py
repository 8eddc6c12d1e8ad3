"""The log as a ring of records: where it ends, and what is in it.

The log is written round and round; every 512-byte block begins with the
number of the round (*cycle*), so that its end (the *head*) is where the
numbers fall. The newest record says where the oldest one lies that is still
needed (the *tail*). A guest that unmounts writes a last record that says so.

What a record holds is for :mod:`vmsec.ondisk.xfs.replay`.

Source:
    XADS 11 ("Journaling Log"); Linux fs/xfs/libxfs/xfs_log_format.h,
    fs/xfs/xfs_log_recover.c (``xlog_find_head``, ``xlog_find_tail``,
    ``xlog_unpack_data``), fs/xfs/xfs_log.c (``xlog_cksum``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.crc32c import START, crc32c
from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.xfs.layout import BASIC_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.source import BlockSource
    from vmsec.ondisk.xfs.layout import Int64Array
    from vmsec.ondisk.xfs.superblock import Superblock

MAX_RECORD_BYTES: Final = 256 << 10
"""XLOG_MAX_RECORD_BSIZE."""

_MAGIC = 0xFEEDBABE
_CYCLE_BYTES = 32 << 10
_CYCLES = _CYCLE_BYTES // BASIC_BLOCK_BYTES
_RECORDS_IN_FLIGHT = 8
_OLD_RECORD_BYTES = 32 << 10
_UNMOUNT = 0x20

# Places in struct xlog_rec_header; all big-endian but h_crc.
_HEAD = struct.Struct(">IIIIQQ4xII")
_CRC_PLACE, _CYCLE_DATA, _TAIL = 32, 44, struct.Struct(">I16sI")
_TAIL_PLACE = _CYCLE_DATA + 4 * _CYCLES
_UUID = slice(_TAIL_PLACE + 4, _TAIL_PLACE + 20)
_HEADER_SIZES = (328, 324)
"""Bytes that the checksum covers, on 64-bit machines and on i386."""

_EXTRA_HEADER_BYTES = 4 + 4 * _CYCLES
_ORDERS: Final = {1: "<", 2: ">"}
"""``h_fmt``: the byte order of the machine that wrote the record."""


class Header(NamedTuple):
    """The header of a record.

    ``place`` counts 512-byte blocks from the start of the log, as do the
    numbers of blocks; ``length`` is bytes; ``raw`` is the header's block.
    """

    place: int
    length: int
    tail: int
    operations: int
    header_blocks: int
    order: str
    raw: bytes

    @property
    def blocks(self) -> int:
        """Blocks of the record with its headers."""
        return self.header_blocks + -(-self.length // BASIC_BLOCK_BYTES)


class Record(NamedTuple):
    """The operations of a record: bytes, number, byte order of contents."""

    data: bytes
    operations: int
    order: str


class Extent(NamedTuple):
    """A part of the ring: its first block, and how many there are."""

    tail: int
    blocks: int


class Log:
    """An internal log.

    Args:
        source: The volume.
        sb: Its superblock; the log's place in it was checked.
    """

    def __init__(self, source: BlockSource, sb: Superblock) -> None:
        self._source, self._sb = source, sb
        group = sb.log_start >> sb.group_block_log
        block = sb.log_start & (1 << sb.group_block_log) - 1
        self._start = group * sb.group_blocks + block << sb.block_log
        self._blocks = (sb.log_blocks << sb.block_log) // BASIC_BLOCK_BYTES
        record = (
            MAX_RECORD_BYTES if sb.has_large_log_records else _OLD_RECORD_BYTES
        )
        self._window = min(
            _RECORDS_IN_FLIGHT * record // BASIC_BLOCK_BYTES, self._blocks
        )

    def find_extent(self) -> Extent | None:
        """Return which part of the log the guest would replay.

        Returns:
            The part, or ``None`` if the guest has unmounted the volume, or
            never mounted it.

        Raises:
            CorruptImageError: This is not a log.
        """
        head = self._find_head()
        if head is None:
            return None
        newest = self._last_header(head)
        if (newest.place + newest.blocks - head) % self._blocks:
            # The newest record was not written to its end.
            head = newest.place
            newest = self._last_header(head)
        if self._is_unmount(newest):
            return None
        if newest.tail >= self._blocks:
            raise log_corrupt("it begins outside itself")
        return Extent(newest.tail, (head - newest.tail) % self._blocks)

    def _find_head(self) -> int | None:
        """Return the first block that the next record would take."""
        first, last = self._cycle(0), self._cycle(self._blocks - 1)
        if first == 0:
            return None
        head = self._blocks
        if first != last:
            low, head = 0, self._blocks - 1
            while head - low > 1:
                middle = (low + head) // 2
                if self._cycle(middle) == last:
                    head = middle
                else:
                    low = middle
        # Records are written side by side: the head is before the first hole.
        start = head - self._window
        expected = np.full(self._window, first, dtype=np.int64)
        expected[: max(-start, 0)] -= 1
        holes = self._cycles(start, self._window) == expected - 1
        if holes.any():
            head = start + int(np.argmax(holes))
        return head % self._blocks

    def _last_header(self, before: int) -> Header:
        """Return the last header before a block."""
        start = before - self._window
        words = self._words(start, self._window)
        places = np.flatnonzero(words[:, 0] == _MAGIC)
        if not len(places):
            raise log_corrupt("there is no record before its end")
        return self._header((start + int(places[-1])) % self._blocks)

    def _header(self, place: int) -> Header:
        """Read and check the header of a record."""
        raw = self._read(place, 1)
        magic, _, version, length, _, tail, _, count = _HEAD.unpack_from(raw)
        form, uuid, size = _TAIL.unpack_from(raw, _TAIL_PLACE)
        if magic != _MAGIC or uuid not in (self._sb.uuid, bytes(16)):
            raise log_corrupt(f"block {place} is not the header of a record")
        for value in (length, size):
            require_limit(value, MAX_RECORD_BYTES, "the size of a log record")
        if form not in _ORDERS:
            raise UnsupportedFormatError(
                f"the XFS log was written by a machine of unknown kind {form};"
                " the file system cannot be sealed before the guest unmounts"
                " it"
            )
        extended = version & 2 and size > _CYCLE_BYTES
        headers = -(-size // _CYCLE_BYTES) if extended else 1
        return Header(
            place,
            length,
            tail & 0xFFFFFFFF,
            count,
            headers,
            _ORDERS[form],
            raw,
        )

    def _is_unmount(self, header: Header) -> bool:
        """Whether a record says that the volume was unmounted."""
        place = header.place + header.header_blocks
        flags = self._read(place, 1)[9]
        return header.operations == 1 and bool(flags & _UNMOUNT)

    def records(self, extent: Extent) -> Iterator[Record]:
        """Yield the records of a part, oldest first.

        One of the last, with a wrong checksum, was not written to its end;
        like the guest, nothing behind it is taken (xlog_verify_head).

        Raises:
            CorruptImageError: There is no row of whole records.
        """
        tail, left = extent
        while left > 0:
            header = self._header(tail)
            left -= header.blocks
            if not header.length or left < 0:
                raise log_corrupt(f"the record at block {tail} is too long")
            data = self._read(header.place + 1, header.blocks - 1)
            split = (header.header_blocks - 1) * BASIC_BLOCK_BYTES
            extra, body = data[:split], data[split:]
            if not self._is_whole(header, extra, body[: header.length]):
                if left > self._window:
                    raise log_corrupt(f"the record at block {tail} is damaged")
                return
            body = _unpacked(header, extra, body)
            yield Record(
                body[: header.length], header.operations, header.order
            )
            tail = (tail + header.blocks) % self._blocks

    def _is_whole(self, header: Header, extra: bytes, body: bytes) -> bool:
        """Whether the checksum of a record is right (version 5 only)."""
        if not self._sb.has_crc:
            return True
        found = int.from_bytes(
            header.raw[_CRC_PLACE : _CRC_PLACE + 4], "little"
        )
        raw = bytearray(header.raw)
        raw[_CRC_PLACE : _CRC_PLACE + 4] = bytes(4)
        count = -(-header.length // _CYCLE_BYTES) - 1
        between = b"".join(
            extra[at : at + _EXTRA_HEADER_BYTES]
            for at in range(0, count * BASIC_BLOCK_BYTES, BASIC_BLOCK_BYTES)
        )
        return any(
            crc32c(START, bytes(raw[:size]) + between + body) ^ START == found
            for size in _HEADER_SIZES
        )

    def _cycle(self, place: int) -> int:
        """Return the cycle number of one block."""
        return int(self._cycles(place, 1)[0])

    def _cycles(self, start: int, count: int) -> Int64Array:
        """Return the cycle numbers of blocks (xlog_get_cycle)."""
        words = self._words(start, count)
        result: Int64Array = np.where(
            words[:, 0] == _MAGIC, words[:, 1], words[:, 0]
        )
        return result

    def _words(self, start: int, count: int) -> Int64Array:
        """Return the first two words of blocks, one block per row."""
        words = np.frombuffer(self._read(start, count), dtype=">u4")
        rows = words.reshape(-1, BASIC_BLOCK_BYTES // 4)
        return rows[:, :2].astype(np.int64)

    def _read(self, start: int, count: int) -> bytes:
        """Read blocks of the ring; the log was checked to be one or more."""
        require_limit(count, self._blocks, "a number of blocks of the log")
        start %= self._blocks
        first = min(count, self._blocks - start)
        data = self._read_straight(start, first)
        return data + self._read_straight(0, count - first)

    def _read_straight(self, start: int, count: int) -> bytes:
        """Read blocks that do not pass the end of the ring."""
        return self._source.read_at(
            self._start + start * BASIC_BLOCK_BYTES, count * BASIC_BLOCK_BYTES
        )


def _unpacked(header: Header, extra: bytes, body: bytes) -> bytes:
    """Put back the words that cycle numbers have replaced."""
    saved = [header.raw[_CYCLE_DATA : _CYCLE_DATA + 4 * _CYCLES]]
    saved += [
        extra[at + 4 : at + _EXTRA_HEADER_BYTES]
        for at in range(0, len(extra), BASIC_BLOCK_BYTES)
    ]
    words = np.frombuffer(b"".join(saved), dtype="V4")
    rows = np.frombuffer(body, dtype="V4").reshape(-1, BASIC_BLOCK_BYTES // 4)
    if len(words) < len(rows):
        raise log_corrupt(f"the record at block {header.place} lacks headers")
    rows = rows.copy()
    rows[:, 0] = words[: len(rows)]
    return rows.tobytes()


def log_corrupt(reason: str) -> CorruptImageError:
    """Say what is wrong and what to do."""
    return CorruptImageError(
        f"xfs log: {reason}; mount the file system in the guest, or run "
        "xfs_repair there"
    )
