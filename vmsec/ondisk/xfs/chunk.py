"""Inode chunks: which inodes are in use, read in large pieces.

A chunk is 64 inodes; a sparse one lacks some, four at a time. The whole
chunk is metadata, also its free inodes: they hold what deleted files left.

Source:
    XADS 13.3.2 and 13.3.3 ("Sparse Inodes"); Linux
    fs/xfs/libxfs/xfs_ialloc.c (``xfs_inobt_check_irec``).
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

    from vmsec.ondisk.xfs.btree import Leaf
    from vmsec.ondisk.xfs.layout import (
        BoolArray,
        ByteMatrix,
        Int64Array,
        RecordArray,
    )
    from vmsec.ondisk.xfs.volume import Volume

READ_BYTES: Final = 4 * MIB
"""Inodes that are held at once."""

_CHUNK = layout.record_type(layout.CHUNK, layout.CHUNK_BYTES)
_HOLES = layout.CHUNK_INODES // layout.HOLE_INODES


class InodeBatch(NamedTuple):
    """Inodes in use: numbers, places in bytes, and contents, one per row."""

    numbers: Int64Array
    offsets: Int64Array
    rows: ByteMatrix


class _Pieces(NamedTuple):
    """Runs of as many inodes as ``used`` has columns."""

    group: Int64Array
    first: Int64Array
    used: BoolArray


class ChunkReader:
    """Reads the inodes of chunks and adds the chunks to the map.

    Records must come in the order of their tree, each group's for itself:
    that no chunk comes twice bounds the work by the size of the volume.

    Args:
        volume: Where they lie.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._next = np.zeros(volume.sb.group_count, dtype=np.int64)

    def read(self, leaf: Leaf) -> Iterator[InodeBatch]:
        """Yield the inodes in use, in batches of :data:`READ_BYTES`.

        Raises:
            CorruptImageError: A chunk is out of order or outside its group.
        """
        chunks = leaf.records.view(_CHUNK)[:, 0]
        group = leaf.blocks // self._volume.sb.group_blocks
        first = chunks["ir_startino"].astype(np.int64)
        self._require_order(group, first)
        used = ~_bits(chunks["ir_free"], 8)
        holes = self._holes(chunks)
        sparse = holes.any(axis=1)
        whole = ~sparse
        yield from self._read(_Pieces(group[whole], first[whole], used[whole]))
        if sparse.any():
            yield from self._read(
                _sparse_pieces(
                    group[sparse], first[sparse], used[sparse], ~holes[sparse]
                )
            )

    def _require_order(self, group: Int64Array, first: Int64Array) -> None:
        """Check that every chunk lies behind the one before it."""
        order = np.argsort(group, kind="stable")
        group, first = group[order], first[order]
        lowest = self._next[group]
        same = group[1:] == group[:-1]
        after = first[:-1] + layout.CHUNK_INODES
        lowest[1:][same] = after[same]
        if (first < lowest).any():
            raise corrupt("the inode chunks of a group are not in order")
        # Of equal indices the last value stays, which is the highest.
        self._next[group] = first + layout.CHUNK_INODES

    def _holes(self, chunks: RecordArray) -> BoolArray:
        """Tell which groups of four inodes do not exist."""
        if not self._volume.sb.has_sparse_chunks:
            return np.zeros((len(chunks), _HOLES), dtype=np.bool_)
        return _bits(chunks["ir_holemask"], 2)

    def _read(self, pieces: _Pieces) -> Iterator[InodeBatch]:
        """Add pieces to the map and yield what is in use of them."""
        sb, count = self._volume.sb, pieces.used.shape[1]
        offsets = self._locate(pieces, count)
        size = count << sb.inode_log
        self._volume.add_bytes(offsets, size, MetadataClass.INODE_TABLE)
        numbers = (pieces.group << sb.inode_number_log) + pieces.first
        wanted = pieces.used.any(axis=1)
        numbers, offsets = numbers[wanted], offsets[wanted]
        used, index = pieces.used[wanted], np.arange(count)
        step = READ_BYTES // size
        for at in range(0, len(offsets), step):
            part = slice(at, at + step)
            data = self._volume.read_rows(offsets[part], size)
            own = (index << sb.inode_log) + offsets[part, None]
            chosen = used[part]
            yield InodeBatch(
                (numbers[part, None] + index)[chosen],
                own[chosen],
                data.reshape(-1, sb.inode_bytes)[chosen.ravel()],
            )

    def _locate(self, pieces: _Pieces, count: int) -> Int64Array:
        """Return where pieces begin, in bytes, after a check of the place."""
        sb = self._volume.sb
        log = sb.block_log - sb.inode_log
        block = pieces.first >> log
        blocks = (pieces.first + count - 1 >> log) - block + 1
        self._volume.linear(pieces.group, block, blocks, "an inode chunk")
        start = pieces.group * (sb.group_blocks << sb.block_log)
        offsets: Int64Array = start + (pieces.first << sb.inode_log)
        return offsets


def _sparse_pieces(
    group: Int64Array, first: Int64Array, used: BoolArray, present: BoolArray
) -> _Pieces:
    """Cut sparse chunks into the groups of four inodes that exist."""
    chunk, part = np.nonzero(present)
    size = layout.HOLE_INODES
    return _Pieces(
        group[chunk],
        first[chunk] + part * size,
        used.reshape(-1, _HOLES, size)[chunk, part],
    )


def _bits(words: RecordArray, size: int) -> BoolArray:
    """Return the bits of words of ``size`` bytes, the lowest first."""
    data = words.astype(f"<u{size}").view(np.uint8).reshape(-1, size)
    return np.unpackbits(data, axis=1, bitorder="little").view(np.bool_)
