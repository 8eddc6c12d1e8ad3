"""One XFS volume: its addresses, its checksums, its metadata runs.

XFS counts blocks in two ways: within an allocation group, and as file system
blocks, which hold the group's number in their upper bits. Here both become
*linear* blocks: counted from the start of the volume, without gaps.

Sectors that were replayed from the log have no valid checksum yet (the guest
computes it when it writes them to their place), so structures that contain
one are not checked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.crc32c import START, crc32c_rows
from vmsec.ondisk.runs import RunCollector
from vmsec.ondisk.xfs import layout

if TYPE_CHECKING:
    from vmsec.ondisk.extent import Extent, MetadataClass
    from vmsec.ondisk.source import BlockSource
    from vmsec.ondisk.xfs.layout import BoolArray, ByteMatrix, Int64Array
    from vmsec.ondisk.xfs.superblock import Superblock


class Volume:
    """What the parsers of one volume share.

    Args:
        source: The volume, with its log replayed.
        sb: Its superblock.
        replayed: Numbers of the 512-byte sectors that come from the log,
            sorted.
    """

    def __init__(
        self, source: BlockSource, sb: Superblock, replayed: Int64Array
    ) -> None:
        self.source, self.sb = source, sb
        self._replayed = replayed
        self._runs = RunCollector(
            block_bytes=1,
            first_block=0,
            block_count=sb.size_bytes,
            checker="xfs_repair",
        )

    def add_bytes(
        self, offset: Int64Array, length: Int64Array | int, kind: MetadataClass
    ) -> None:
        """Add runs of metadata, in bytes from the start of the volume."""
        self._runs.add(offset, length, kind)

    def add_blocks(self, blocks: Int64Array, kind: MetadataClass) -> None:
        """Add single linear blocks of metadata."""
        size = self.sb.block_bytes
        self._runs.add(blocks * size, size, kind)

    def extents(self) -> tuple[Extent, ...]:
        """Return all runs that were added, sorted and joined."""
        return self._runs.merged()

    def group_lengths(self) -> Int64Array:
        """Return the blocks of each allocation group."""
        sb = self.sb
        lengths = np.full(sb.group_count, sb.group_blocks, dtype=np.int64)
        lengths[-1] = sb.last_group_blocks
        return lengths

    def linear(
        self,
        group: Int64Array,
        block: Int64Array,
        count: Int64Array | int,
        what: str,
    ) -> Int64Array:
        """Turn blocks of groups into linear blocks.

        Args:
            group: Number of the group of each run.
            block: First block of each run within its group.
            count: Blocks of each run.
            what: What they hold, for the operator.

        Raises:
            CorruptImageError: A run is empty or not inside one group.
        """
        sb = self.sb
        last = group == sb.group_count - 1
        room = np.where(last, sb.last_group_blocks, sb.group_blocks)
        wrong = (group < 0) | (group >= sb.group_count) | (block < 0)
        wrong |= (np.asarray(count) <= 0) | (block > room - count)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise corrupt(
                f"{what} in group {group[at]}, block {block[at]} lies outside "
                "its allocation group"
            )
        result: Int64Array = group * sb.group_blocks + block
        return result

    def from_filesystem(
        self, blocks: Int64Array, count: Int64Array | int, what: str
    ) -> Int64Array:
        """Turn file system blocks into linear blocks; see :meth:`linear`."""
        log = self.sb.group_block_log
        mask = (1 << log) - 1
        return self.linear(blocks >> log, blocks & mask, count, what)

    def read_blocks(self, blocks: Int64Array) -> ByteMatrix:
        """Read linear blocks, one per row."""
        size = self.sb.block_bytes
        return self.read_rows(blocks * size, size)

    def read_rows(self, offsets: Int64Array, size: int) -> ByteMatrix:
        """Read pieces of ``size`` bytes, one per row."""
        data = b"".join(
            self.source.read_at(offset, size) for offset in offsets.tolist()
        )
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)

    def verify_checksums(
        self, offsets: Int64Array, rows: ByteMatrix, place: int, what: str
    ) -> None:
        """Check the crc32c of structures; version 4 has none.

        Args:
            offsets: Where each begins, in bytes.
            rows: Their bytes, one structure per row.
            place: Where in a row the checksum stands.
            what: What they are, for the operator.

        Raises:
            CorruptImageError: A checksum is wrong.
        """
        if not self.sb.has_crc or not len(rows):
            return
        fresh = self._from_log(offsets, rows.shape[1])
        cleared = rows.copy()
        cleared[:, place : place + 4] = 0
        found = rows[:, place : place + 4].copy().view("<u4")[:, 0]
        wrong = (crc32c_rows(START, cleared) ^ START != found) & ~fresh
        if wrong.any():
            at = int(offsets[int(np.argmax(wrong))])
            raise corrupt(f"the checksum of {what} at byte {at} is wrong")

    def _from_log(self, offsets: Int64Array, size: int) -> BoolArray:
        """Tell which pieces contain a sector from the log."""
        unit = layout.BASIC_BLOCK_BYTES
        low = np.searchsorted(self._replayed, offsets // unit)
        high = np.searchsorted(self._replayed, -(-(offsets + size) // unit))
        result: BoolArray = low < high
        return result


def corrupt(reason: str) -> CorruptImageError:
    """Say what is wrong and what to do."""
    return CorruptImageError(
        f"xfs: {reason}; run xfs_repair in the guest first"
    )
