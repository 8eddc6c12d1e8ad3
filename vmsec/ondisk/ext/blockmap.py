"""Extent trees and indirect maps: from an inode to its blocks.

A tree is followed only as far as needed: for a file whose data stays plain,
down to the *places* of its lowest tree blocks; for one whose blocks are
metadata (a directory, the journal), to the end. Every tree block is read at
most once on the whole volume, so neither a cycle nor a shared branch costs
more than the volume's own size. Of a single inode the runs are added in the
order of the file.

Source:
    Linux Documentation/filesystems/ext4/ifork.rst; fs/ext4/extents.c
    (``__ext4_ext_check``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import layout
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    from vmsec.ondisk.ext.layout import Int64Array, Uint32Array
    from vmsec.ondisk.runs import RunCollector
    from vmsec.ondisk.source import BlockSource

_TREE = MetadataClass.EXTENT_TREE


class BlockMap:
    """Follows the block maps of one volume into a collector.

    Args:
        source: The volume.
        block_bytes: Size of a block.
        runs: Receives tree blocks and wanted data blocks; it also checks
            that each lies inside the volume before it is read here.
    """

    def __init__(
        self, source: BlockSource, block_bytes: int, runs: RunCollector
    ) -> None:
        self._source, self._size, self._runs = source, block_bytes, runs
        self._seen: set[int] = set()

    def add_extent_roots(
        self, words: Uint32Array, kind: MetadataClass | None
    ) -> None:
        """Add what hangs below extent-tree roots.

        Args:
            words: ``i_block`` of each inode: 15 words per row.
            kind: Class of their data blocks; ``None`` leaves these out.

        Raises:
            CorruptImageError: A tree contradicts itself.
        """
        if not len(words):
            return
        entries, depth = words[:, 0] >> 16, words[:, 1] >> 16
        room = words.shape[1] // layout.EXTENT_WORDS - 1
        wrong = (words[:, 0] & 0xFFFF) != layout.EXTENT_MAGIC
        wrong |= (entries > room) | (depth > layout.MAX_EXTENT_DEPTH)
        if wrong.any():
            raise _corrupt("an inode's extent-tree root is not one")
        table = words[:, layout.EXTENT_WORDS :].reshape(len(words), room, 3)
        used = np.arange(room) < entries[:, None]
        self._add_extents(table[used & (depth == 0)[:, None]], kind)
        inner = used & (depth > 0)[:, None]
        children = _child_blocks(table[inner])
        self._runs.add(children, 1, _TREE)
        below = np.broadcast_to(depth[:, None], used.shape)[inner] - 1
        if kind is None:
            children, below = children[below > 0], below[below > 0]
        todo = list(zip(children.tolist(), below.tolist(), strict=True))
        self._walk_extents(todo[::-1], kind)

    def add_pointer_roots(
        self, words: Uint32Array, kind: MetadataClass | None
    ) -> None:
        """Add what hangs below block pointers of ext2 and ext3.

        Args:
            words: ``i_block`` of each inode: 15 words per row.
            kind: Class of their data blocks; ``None`` leaves these out.

        Raises:
            CorruptImageError: A map contradicts itself.
        """
        direct = words[:, : layout.DIRECT_POINTERS]
        self._add_pointers(direct[direct != 0], kind)
        todo: list[tuple[int, int]] = []
        for column, level in layout.INDIRECT_COLUMNS:
            blocks = words[:, column][words[:, column] != 0]
            self._runs.add(blocks, 1, _TREE)
            if level > 1 or kind is not None:
                todo += [(block, level) for block in blocks.tolist()]
        self._walk_pointers(todo[::-1], kind)

    def _walk_extents(
        self, todo: list[tuple[int, int]], kind: MetadataClass | None
    ) -> None:
        """Follow extent-tree blocks, given with the depth they must have.

        The last of ``todo`` comes first.
        """
        while todo:
            block, depth = todo.pop()
            table = _read_node(self._read(block), block, depth)
            if depth == 0:
                self._add_extents(table, kind)
                continue
            children = _child_blocks(table)
            self._runs.add(children, 1, _TREE)
            if depth > 1 or kind is not None:
                below = children[::-1].tolist()
                todo += [(child, depth - 1) for child in below]

    def _walk_pointers(
        self, todo: list[tuple[int, int]], kind: MetadataClass | None
    ) -> None:
        """Follow indirect blocks, given with the levels from them to data.

        The last of ``todo`` comes first.
        """
        while todo:
            block, level = todo.pop()
            pointers = self._read(block)
            pointers = pointers[pointers != 0]
            if level == 1:
                self._add_pointers(pointers, kind)
                continue
            self._runs.add(pointers, 1, _TREE)
            if level > 2 or kind is not None:
                below = pointers[::-1].tolist()
                todo += [(child, level - 1) for child in below]

    def _add_pointers(
        self, blocks: Uint32Array, kind: MetadataClass | None
    ) -> None:
        """Add single data blocks, unless their class is to stay out."""
        if kind is not None:
            self._runs.add(blocks, 1, kind)

    def _add_extents(
        self, table: Uint32Array, kind: MetadataClass | None
    ) -> None:
        """Add extents (rows of three words), unless they are to stay out."""
        if kind is None:
            return
        length = (table[:, 1] & 0xFFFF).astype(np.int64)
        unwritten = length > layout.MAX_EXTENT_BLOCKS
        length -= unwritten * layout.MAX_EXTENT_BLOCKS
        start = table[:, 2].astype(np.int64)
        start |= (table[:, 1] >> 16).astype(np.int64) << 32
        self._runs.add(start, length, kind)

    def _read(self, block: int) -> Uint32Array:
        """Read one tree block as words; never the same one twice."""
        if block in self._seen:
            raise _corrupt(f"block {block} is used by two block maps")
        self._seen.add(block)
        data = self._source.read_at(block * self._size, self._size)
        return np.frombuffer(data, dtype="<u4")


def _read_node(words: Uint32Array, block: int, depth: int) -> Uint32Array:
    """Check the header of an extent-tree block and return its entries."""
    head, limit = int(words[0]), int(words[1])
    entries = head >> 16
    room = len(words) // layout.EXTENT_WORDS - 1
    if (
        head & 0xFFFF != layout.EXTENT_MAGIC
        or limit >> 16 != depth
        or not entries <= limit & 0xFFFF <= room
    ):
        raise _corrupt(f"block {block} is not an extent-tree block")
    end = layout.EXTENT_WORDS * (entries + 1)
    return words[layout.EXTENT_WORDS : end].reshape(-1, layout.EXTENT_WORDS)


def _child_blocks(table: Uint32Array) -> Int64Array:
    """Return the blocks that index entries (rows of three words) name."""
    low, high = table[:, 1].astype(np.int64), table[:, 2] & 0xFFFF
    return low | high.astype(np.int64) << 32


def _corrupt(reason: str) -> CorruptImageError:
    """Say what is wrong and what to do."""
    return CorruptImageError(f"ext: {reason}; run e2fsck in the guest first")
