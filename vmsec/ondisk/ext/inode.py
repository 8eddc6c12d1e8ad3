"""Inode tables: read in large pieces, sorted out by arrays, not one by one.

Which inodes are in use is what the inode bitmaps say: a table may hold
deleted inodes, and where mke2fs left it uninitialised, those of an older file
system, whose blocks now belong to other files.

Source:
    Linux Documentation/filesystems/ext4: inodes.rst, ifork.rst, bitmaps.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmsec.ondisk.ext import layout
from vmsec.ondisk.ext.feature import Incompat
from vmsec.ondisk.extent import MetadataClass
from vmsec.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.ext.blockmap import BlockMap
    from vmsec.ondisk.ext.groups import GroupTable
    from vmsec.ondisk.ext.layout import BoolArray, Int64Array, RecordArray
    from vmsec.ondisk.ext.superblock import Superblock
    from vmsec.ondisk.runs import RunCollector
    from vmsec.ondisk.source import BlockSource

READ_BYTES = 4 * MIB
"""Largest piece of an inode table that is held at once."""


_TYPE = layout.record_type(layout.INODE, layout.GOOD_OLD_INODE_BYTES)


class InodeBatch(NamedTuple):
    """Inodes in use: their numbers, and their records in the same order."""

    numbers: Int64Array
    records: RecordArray


def read_inodes(
    source: BlockSource, sb: Superblock, groups: GroupTable
) -> Iterator[InodeBatch]:
    """Yield all inodes in use, in batches of about :data:`READ_BYTES`."""
    limit = READ_BYTES // sb.inode_bytes
    pending: list[InodeBatch] = []
    count = 0
    for group in np.flatnonzero(groups.used_inodes).tolist():
        for batch in _read_group(source, sb, groups, group):
            pending.append(batch)
            count += len(batch.numbers)
            if count >= limit:
                yield _join(pending)
                pending, count = [], 0
    if pending:
        yield _join(pending)


def read_inode(
    source: BlockSource, sb: Superblock, groups: GroupTable, number: int
) -> InodeBatch:
    """Return one inode, in use or not.

    Args:
        source: The volume.
        sb: Its superblock.
        groups: Its group descriptors.
        number: From 1 to ``sb.inode_count``.
    """
    group, index = divmod(number - 1, sb.inodes_per_group)
    place = int(groups.inode_table[group]) * sb.block_bytes
    data = source.read_at(place + index * sb.inode_bytes, sb.inode_bytes)
    return InodeBatch(
        np.array([number]), _records(sb, data, np.zeros(1, dtype=np.int64))
    )


def add_inode_runs(
    sb: Superblock, batch: InodeBatch, runs: RunCollector, tree: BlockMap
) -> None:
    """Add what a batch of inodes contributes to the map.

    Args:
        sb: The superblock.
        batch: Inodes in use.
        runs: Receives attribute blocks.
        tree: Receives the block maps.

    Raises:
        CorruptImageError: A block map contradicts itself.
    """
    runs.add(_attribute_blocks(sb, batch.records), 1, MetadataClass.XATTR)
    kinds = _classify(sb, batch)
    flags = batch.records["i_flags"]
    by_extents = (flags & layout.FLAG_EXTENTS) != 0
    words = batch.records["i_block"]
    for code, kind in enumerate(_DATA_KINDS):
        chosen = kinds == code
        if chosen.any():
            tree.add_extent_roots(words[chosen & by_extents], kind)
            tree.add_pointer_roots(words[chosen & ~by_extents], kind)
    # Its map is the reserved descriptor blocks, which are known already;
    # only the block that lists them is its own (ext4 "Special inodes").
    lists = words[batch.numbers == layout.RESIZE_INODE, 13]
    runs.add(lists[lists != 0], 1, MetadataClass.EXTENT_TREE)


_DATA_KINDS = (
    None,
    MetadataClass.DIRECTORY,
    MetadataClass.SYMLINK,
    MetadataClass.XATTR,
    MetadataClass.SPECIAL_INODE,
    MetadataClass.JOURNAL,
)
_PLAIN, _DIRECTORY, _SYMLINK, _XATTR, _SPECIAL, _JOURNAL = range(6)
_NO_MAP = -1


def _classify(sb: Superblock, batch: InodeBatch) -> Int64Array:
    """Return for each inode an index into ``_DATA_KINDS``, or -1.

    Later lines outrank earlier ones.
    """
    numbers, records = batch
    kind = records["i_mode"] & layout.TYPE_MASK
    flags = records["i_flags"]
    special = (numbers < sb.first_inode) & (numbers != layout.ROOT_INODE)
    for number in (*sb.quota_inodes, sb.orphan_file_inode):
        special |= numbers == number
    result = np.full(len(numbers), _NO_MAP, dtype=np.int64)
    result[kind == layout.TYPE_REGULAR] = _PLAIN
    result[_slow_symlinks(records, kind)] = _SYMLINK
    result[(flags & layout.FLAG_EA_INODE) != 0] = _XATTR
    result[special & (result == _PLAIN)] = _SPECIAL
    result[kind == layout.TYPE_DIRECTORY] = _DIRECTORY
    # Inline content lies in the inode itself (inlinedata.rst).
    result[(flags & layout.FLAG_INLINE_DATA) != 0] = _NO_MAP
    # The bad blocks cannot be read; what lists them can. i_mode is 0.
    result[numbers == layout.BAD_BLOCKS_INODE] = _PLAIN
    result[numbers == layout.RESIZE_INODE] = _NO_MAP
    if sb.journal_inode:
        result[numbers == sb.journal_inode] = _JOURNAL
    return result


def _slow_symlinks(records: RecordArray, kind: RecordArray) -> BoolArray:
    """Tell symbolic links whose target lies in a block (ifork.rst)."""
    size = records["i_size_lo"]
    # Linux 2.6.2x set the extents flag on short links too, without a root.
    root = (records["i_block"][:, 0] & 0xFFFF) == layout.EXTENT_MAGIC
    root &= (records["i_flags"] & layout.FLAG_EXTENTS) != 0
    slow: BoolArray = (kind == layout.TYPE_SYMLINK) & (
        root | (size >= layout.FAST_SYMLINK_BYTES)
    )
    return slow


def _attribute_blocks(sb: Superblock, records: RecordArray) -> Int64Array:
    """Return the attribute blocks (``i_file_acl``) of the inodes, each once.

    Many inodes may share one block (attributes.rst).
    """
    blocks: Int64Array = records["i_file_acl_lo"].astype(np.int64)
    if sb.incompat & Incompat.BIT64:
        blocks |= records["l_i_file_acl_high"].astype(np.int64) << 32
    blocks = np.sort(blocks)
    # 0 (none) and whatever equals its predecessor drops out.
    chosen: Int64Array = blocks[np.diff(blocks, prepend=0) != 0]
    return chosen


def _read_group(
    source: BlockSource, sb: Superblock, groups: GroupTable, group: int
) -> Iterator[InodeBatch]:
    """Yield the inodes in use of one group, in pieces."""
    used = int(groups.used_inodes[group])
    bitmap = source.read_at(
        int(groups.inode_bitmap[group]) * sb.block_bytes, -(-used // 8)
    )
    bits = np.unpackbits(
        np.frombuffer(bitmap, dtype=np.uint8), count=used, bitorder="little"
    ).view(np.bool_)
    table = int(groups.inode_table[group]) * sb.block_bytes
    step = READ_BYTES // sb.inode_bytes
    for first in range(0, used, step):
        count = min(step, used - first)
        data = source.read_at(
            table + first * sb.inode_bytes, count * sb.inode_bytes
        )
        index = np.flatnonzero(bits[first : first + count])
        numbers = index + (group * sb.inodes_per_group + first + 1)
        yield InodeBatch(numbers, _records(sb, data, index))


def _records(sb: Superblock, data: bytes, index: Int64Array) -> RecordArray:
    """Return the chosen inodes of a piece of table, without their tails."""
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, sb.inode_bytes)
    return rows[index, : layout.GOOD_OLD_INODE_BYTES].view(_TYPE)[:, 0]


def _join(batches: list[InodeBatch]) -> InodeBatch:
    """Make one batch of many."""
    if len(batches) == 1:
        return batches[0]
    return InodeBatch(
        np.concatenate([batch.numbers for batch in batches]),
        np.concatenate([batch.records for batch in batches]),
    )
