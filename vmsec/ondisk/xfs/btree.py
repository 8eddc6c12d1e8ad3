"""B+trees of XFS: free space, inodes, reverse map, reference counts, extents.

A tree is followed level by level, all trees of a kind side by side. Blocks
whose records nobody wants are not read: their place is known from above.
Every block is read at most once on the whole volume, so neither a cycle nor
a shared branch costs more than the volume's own size.

Source:
    XADS 8 ("B+trees"), 13.2.2, 13.3.2, 18 and 19; Linux
    fs/xfs/libxfs/xfs_btree.c (``xfs_btree_check_sblock``,
    ``xfs_btree_check_lblock``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import layout
from vmsec.ondisk.xfs.volume import corrupt
from vmsec.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.xfs.layout import (
        BoolArray,
        ByteMatrix,
        Int64Array,
        RecordArray,
    )
    from vmsec.ondisk.xfs.volume import Volume

READ_BYTES: Final = 4 * MIB
"""Blocks of one level that are held at once."""

_BLOCK = layout.record_type(layout.BLOCK, 8)


class Tree(NamedTuple):
    """A kind of tree.

    ``magic`` is for version 4 (0: does not exist there) and 5; ``kind`` is
    the class of its blocks.
    """

    name: str
    magic: tuple[int, int]
    record_bytes: int
    key_bytes: int
    pointer_bytes: int
    kind: MetadataClass

    @property
    def is_long(self) -> bool:
        """Whether it belongs to an inode, not to a group."""
        return self.pointer_bytes == 8


_FREE, _INODES = MetadataClass.BLOCK_BITMAP, MetadataClass.INODE_BITMAP

# ABTB and AB3B, ABTC and AB3C, IABT and IAB3, FIBT and FIB3, RMB3, R3FC, BMAP
# and BMA3. Nodes of the reverse map hold two keys of each branch (XADS 18).
BNO: Final = Tree("bnobt", (0x41425442, 0x41423342), 8, 8, 4, _FREE)
CNT: Final = Tree("cntbt", (0x41425443, 0x41423343), 8, 8, 4, _FREE)
INO: Final = Tree("inobt", (0x49414254, 0x49414233), 16, 4, 4, _INODES)
FINO: Final = Tree("finobt", (0x46494254, 0x46494233), 16, 4, 4, _INODES)
RMAP: Final = Tree("rmapbt", (0, 0x524D4233), 24, 40, 4, _FREE)
REFC: Final = Tree("refcountbt", (0, 0x52334643), 12, 4, 4, _FREE)
BMAP: Final = Tree(
    "bmbt",
    (0x424D4150, 0x424D4133),
    *(16, 8, 8),
    MetadataClass.EXTENT_TREE,
)


class Leaf(NamedTuple):
    """Records of leaves: the linear block and the bytes of each."""

    blocks: Int64Array
    records: ByteMatrix


class TreeReader:
    """Follows trees of one volume, and remembers what it has read.

    Args:
        volume: Where the trees lie; receives their blocks.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._seen: set[int] = set()

    def walk(
        self,
        tree: Tree,
        blocks: Int64Array,
        levels: Int64Array,
        *,
        leaves: bool,
    ) -> Iterator[Leaf]:
        """Add all blocks of trees to the map; yield the records in leaves.

        Args:
            tree: Which kind.
            blocks: Linear blocks to begin with.
            levels: The level of each, 0 for a leaf.
            leaves: Whether to read leaves; else nothing is yielded.

        Raises:
            CorruptImageError: A tree contradicts itself.
        """
        if ((levels < 0) | (levels >= layout.MAX_LEVELS)).any():
            raise corrupt(
                f"the {tree.name} has an impossible number of levels"
            )
        here = np.zeros(0, dtype=np.int64)
        for level in range(int(levels.max(initial=-1)), -1, -1):
            here = np.concatenate([here, blocks[levels == level]])
            self._volume.add_blocks(here, tree.kind)
            if level == 0:
                if leaves:
                    yield from self._read_leaves(tree, here)
                return
            here = self._read_nodes(tree, here, level)

    def _read_leaves(self, tree: Tree, blocks: Int64Array) -> Iterator[Leaf]:
        """Yield the records of leaves."""
        size = tree.record_bytes
        for places, rows in self._read(tree, blocks, 0, size):
            start = self._header(tree)
            room = (rows.shape[1] - start) // size
            table = rows[:, start : start + room * size]
            used = _used(rows, room)
            yield Leaf(
                np.repeat(places, used.sum(axis=1)),
                table.reshape(len(rows), room, size)[used],
            )

    def _read_nodes(
        self, tree: Tree, blocks: Int64Array, level: int
    ) -> Int64Array:
        """Return the linear blocks that nodes point to."""
        children = [np.zeros(0, dtype=np.int64)]
        key, size = tree.key_bytes, tree.pointer_bytes
        for places, rows in self._read(tree, blocks, level, key + size):
            room = (rows.shape[1] - self._header(tree)) // (key + size)
            start = self._header(tree) + room * key
            table = rows[:, start : start + room * size].copy()
            used = _used(rows, room)
            if not used[:, 0].all():
                raise corrupt(f"a node of the {tree.name} is empty")
            pointers = table.view(f">u{size}")[used]
            parents = np.repeat(places, used.sum(axis=1))
            children.append(self._locate(tree, parents, pointers))
        return np.concatenate(children)

    def _locate(
        self, tree: Tree, parents: Int64Array, pointers: RecordArray
    ) -> Int64Array:
        """Turn pointers into linear blocks."""
        what = f"a block of the {tree.name}"
        blocks = pointers.astype(np.int64)
        if tree.is_long:
            return self._volume.from_filesystem(blocks, 1, what)
        group = parents // self._volume.sb.group_blocks
        return self._volume.linear(group, blocks, 1, what)

    def _read(
        self, tree: Tree, blocks: Int64Array, level: int, entry_bytes: int
    ) -> Iterator[tuple[Int64Array, ByteMatrix]]:
        """Yield blocks of one level in batches, each with its places.

        1. never read before; 2. of this tree; 3. of this level; 4. with no
        more entries than fit; 5. in version 5: of this place, this file
        system, and whole.
        """
        size = self._volume.sb.block_bytes
        step = max(READ_BYTES // size, 1)
        limit = (size - self._header(tree)) // entry_bytes
        for first in range(0, len(blocks), step):
            places = blocks[first : first + step]
            self._claim(places)  # 1
            rows = self._volume.read_blocks(places)
            head = rows[:, :8].copy().view(_BLOCK)[:, 0]
            magic = tree.magic[self._volume.sb.has_crc]
            wrong = head["bb_magic"] != magic  # 2
            wrong |= head["bb_level"] != level  # 3
            wrong |= head["bb_numrecs"] > limit  # 4
            if wrong.any():
                at = int(places[int(np.argmax(wrong))])
                raise corrupt(
                    f"block {at} is not the {tree.name} block of level "
                    f"{level} that it should be"
                )
            self._verify_self(tree, places, rows)  # 5
            yield places, rows

    def _claim(self, blocks: Int64Array) -> None:
        """Refuse to read any block twice."""
        for block in blocks.tolist():
            if block in self._seen:
                raise corrupt(f"block {block} is used by two B+trees")
            self._seen.add(block)

    def _verify_self(
        self, tree: Tree, blocks: Int64Array, rows: ByteMatrix
    ) -> None:
        """Check what blocks of version 5 say about themselves (XADS 10)."""
        sb = self._volume.sb
        if not sb.has_crc:
            return
        places = layout.LONG_SELF if tree.is_long else layout.SHORT_SELF
        own, uuid, crc = places
        found = rows[:, own : own + 8].copy().view(">u8")[:, 0]
        expected = blocks * (sb.block_bytes // layout.BASIC_BLOCK_BYTES)
        ours = np.frombuffer(sb.meta_uuid, dtype=np.uint8)
        wrong = found != expected.astype(np.uint64)
        wrong |= (rows[:, uuid : uuid + 16] != ours).any(axis=1)
        if wrong.any():
            at = int(blocks[int(np.argmax(wrong))])
            raise corrupt(f"the {tree.name} block {at} belongs elsewhere")
        self._volume.verify_checksums(
            blocks * sb.block_bytes, rows, crc, f"a block of the {tree.name}"
        )

    def _header(self, tree: Tree) -> int:
        """Return the bytes of a block's header."""
        sizes = layout.LONG_HEADER if tree.is_long else layout.SHORT_HEADER
        return sizes[self._volume.sb.has_crc]


def _used(rows: ByteMatrix, room: int) -> BoolArray:
    """Tell for each block (row) which of its entries count."""
    count = rows[:, :8].copy().view(_BLOCK)["bb_numrecs"]
    used: BoolArray = np.arange(room) < count
    return used
