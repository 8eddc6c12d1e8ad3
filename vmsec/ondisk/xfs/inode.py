"""Inodes and their forks: from a batch of inodes to the blocks they own.

The data of directories, symbolic links, quota files and the realtime bitmaps
is metadata; so is the attribute fork of every inode, whole, with the values
that are too long for its leaves. Of regular files only the blocks of the
extent tree are.

Source:
    XADS 14 ("On-disk Inode"), 15 and 17 ("Data Extents"), 16 ("Extended
    Attributes"); Linux fs/xfs/libxfs/xfs_inode_buf.c
    (``xfs_dinode_verify``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import btree, layout
from vmsec.ondisk.xfs.volume import corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.xfs.btree import TreeReader
    from vmsec.ondisk.xfs.chunk import InodeBatch
    from vmsec.ondisk.xfs.layout import (
        BoolArray,
        ByteMatrix,
        Int64Array,
        RecordArray,
    )
    from vmsec.ondisk.xfs.superblock import Superblock
    from vmsec.ondisk.xfs.volume import Volume

_PLAIN, _DIRECTORY, _SYMLINK, _SPECIAL, _XATTR = range(5)
_KINDS: Final = (
    None,
    MetadataClass.DIRECTORY,
    MetadataClass.SYMLINK,
    MetadataClass.SPECIAL_INODE,
    MetadataClass.XATTR,
)


class _Forks(NamedTuple):
    """One fork of each inode of a batch.

    ``start`` and ``size`` are bytes within the inode; ``kind`` is an index
    into ``_KINDS``.
    """

    start: Int64Array
    size: Int64Array
    form: Int64Array
    extents: Int64Array
    kind: Int64Array


def add_inodes(volume: Volume, trees: TreeReader, batch: InodeBatch) -> None:
    """Add what a batch of inodes in use owns.

    Raises:
        CorruptImageError: An inode or its tree contradicts itself.
    """
    records = _verified(volume, batch)
    data, attributes = _forks(volume.sb, batch, records)
    for forks in (data, attributes):
        for code, kind in enumerate(_KINDS):
            own = forks.kind == code
            if kind is not None:
                chosen = own & (forks.form == layout.FORMAT_EXTENTS)
                _add_inline(volume, batch.rows, forks, chosen, kind)
            chosen = own & (forks.form == layout.FORMAT_BTREE)
            _add_trees(volume, trees, (batch.rows, forks, chosen), kind)


def inode_type(sb: Superblock) -> np.dtype[Any]:
    """Return the record type of this volume's inodes."""
    fields = layout.INODE_V3 if sb.has_crc else layout.INODE
    return layout.record_type(fields, sb.inode_bytes)


def core_bytes(sb: Superblock) -> int:
    """Return where the forks of this volume's inodes begin."""
    if sb.has_crc:
        return layout.INODE_V3_CORE_BYTES
    return layout.INODE_CORE_BYTES


def _verified(volume: Volume, batch: InodeBatch) -> RecordArray:
    """Return the records of inodes that are what they should be.

    1. magic and version; 2. in version 5: their own number, this file
    system, and whole (xfs_dinode_verify).
    """
    sb = volume.sb
    records = batch.rows.view(inode_type(sb))[:, 0]
    version = records["di_version"]
    wrong = records["di_magic"] != layout.INODE_MAGIC  # 1
    if sb.has_crc:
        wrong |= version != 3
        wrong |= records["di_ino"].astype(np.int64) != batch.numbers  # 2
        ours = np.frombuffer(sb.meta_uuid, dtype=np.uint8)
        wrong |= (batch.rows[:, layout.INODE_UUID] != ours).any(axis=1)
    else:
        wrong |= (version < 1) | (version > 2)
    _require_none(wrong, batch, "is not an inode")
    volume.verify_checksums(
        batch.offsets, batch.rows, layout.INODE_CRC, "an inode"
    )
    return records


def _forks(
    sb: Superblock, batch: InodeBatch, records: RecordArray
) -> tuple[_Forks, _Forks]:
    """Return the data and the attribute forks of inodes."""
    core = core_bytes(sb)
    room = sb.inode_bytes - core
    offset = records["di_forkoff"].astype(np.int64) * 8
    _require_none(offset >= room, batch, "has forks that do not fit")
    has_attributes = offset > 0
    data_size = np.where(has_attributes, offset, room)
    counts, attribute_counts = _extent_counts(sb, records)
    data = _Forks(
        np.full(len(records), core),
        data_size,
        records["di_format"].astype(np.int64),
        counts,
        _classify(sb, batch.numbers, records),
    )
    attributes = _Forks(
        core + offset,
        room - offset,
        np.where(has_attributes, records["di_aformat"], layout.FORMAT_LOCAL),
        attribute_counts,
        np.full(len(records), _XATTR),
    )
    for forks in (data, attributes):
        # Counts of 2^63 and more are negative here.
        most = forks.size // layout.EXTENT_BYTES
        wrong = (forks.extents < 0) | (forks.extents > most)
        wrong &= forks.form == layout.FORMAT_EXTENTS
        wrong |= forks.form > layout.FORMAT_BTREE
        _require_none(wrong, batch, "has a fork of an impossible form")
    return data, attributes


def _extent_counts(
    sb: Superblock, records: RecordArray
) -> tuple[Int64Array, Int64Array]:
    """Return the number of extents of both forks (XADS 14.2)."""
    data = records["di_nextents"].astype(np.int64)
    attributes = records["di_anextents"].astype(np.int64)
    if not sb.has_crc:
        return data, attributes
    large = (records["di_flags2"] & layout.FLAG2_NREXT64) != 0
    # The count of the attribute fork then stands where the other one stood.
    return (
        np.where(large, records["di_big_nextents"].astype(np.int64), data),
        np.where(large, data, attributes),
    )


def _classify(
    sb: Superblock, numbers: Int64Array, records: RecordArray
) -> Int64Array:
    """Say what the data of each inode is; later lines outrank earlier."""
    kind = records["di_mode"] & layout.TYPE_MASK
    result = np.full(len(numbers), _PLAIN, dtype=np.int64)
    result[kind == layout.TYPE_DIRECTORY] = _DIRECTORY
    result[kind == layout.TYPE_SYMLINK] = _SYMLINK
    result[np.isin(numbers, sb.special_inodes)] = _SPECIAL
    return result


def _add_inline(
    volume: Volume,
    rows: ByteMatrix,
    forks: _Forks,
    chosen: BoolArray,
    kind: MetadataClass,
) -> None:
    """Add the extents that stand in the forks themselves."""
    for index, start, size in _same_shape(forks, chosen):
        most = size // layout.EXTENT_BYTES
        table = rows[index, start : start + most * layout.EXTENT_BYTES]
        words = table.view(">u8").reshape(len(index), most, 2)
        used = np.arange(most) < forks.extents[index, None]
        _add_extents(volume, words[used], kind)


def _add_trees(
    volume: Volume,
    trees: TreeReader,
    where: tuple[ByteMatrix, _Forks, BoolArray],
    kind: MetadataClass | None,
) -> None:
    """Add the extent trees whose roots stand in chosen forks.

    Args:
        volume: Receives their extents.
        trees: Reads their blocks.
        where: The inodes, their forks, and which of them are meant.
        kind: What their extents hold; ``None`` leaves these out.
    """
    blocks = levels = np.zeros(0, dtype=np.int64)
    for index, start, size in _same_shape(*where[1:]):
        fork = where[0][index, start : start + size]
        some, level = _root(fork)
        blocks = np.concatenate([blocks, some])
        levels = np.concatenate([levels, level])
    places = volume.from_filesystem(blocks, 1, "an extent tree")
    for leaf in trees.walk(
        btree.BMAP, places, levels, leaves=kind is not None
    ):
        if kind is not None:
            _add_extents(volume, leaf.records.view(">u8"), kind)


def _root(fork: ByteMatrix) -> tuple[Int64Array, Int64Array]:
    """Return what roots of trees point to: blocks and their levels."""
    start = layout.ROOT_HEADER_BYTES
    if fork.shape[1] < start + layout.EXTENT_BYTES:
        raise corrupt("a fork has no room for the root of its extent tree")
    head = fork[:, :start].copy().view(">u2").astype(np.int64)
    level, count = head[:, 0], head[:, 1]
    # A key and a pointer take 16 bytes as well; all keys come first.
    most = (fork.shape[1] - start) // layout.EXTENT_BYTES
    if ((count < 1) | (count > most) | (level < 1)).any():
        raise corrupt("the root of an extent tree is not one")
    table = fork[:, start + 8 * most : start + 16 * most].copy().view(">u8")
    used = np.arange(most) < count[:, None]
    return table[used].astype(np.int64), np.repeat(level - 1, count)


def _same_shape(
    forks: _Forks, chosen: BoolArray
) -> Iterator[tuple[Int64Array, int, int]]:
    """Yield the chosen forks sorted by shape: their rows, start and size."""
    index = np.flatnonzero(chosen)
    shapes = forks.start[index] << 16 | forks.size[index]
    for shape in np.unique(shapes).tolist():
        yield index[shapes == shape], shape >> 16, shape & 0xFFFF


def _add_extents(
    volume: Volume, words: RecordArray, kind: MetadataClass
) -> None:
    """Add packed extents (XADS 17.1): rows of two words of 64 bits.

    One bit for unwritten, 54 of file offset, 52 of block, 21 of length.
    """
    high, low = words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)
    start = (high & np.uint64(0x1FF)) << np.uint64(43) | low >> np.uint64(21)
    count = (low & np.uint64(0x1FFFFF)).astype(np.int64)
    what = f"an extent of {kind} blocks"
    blocks = volume.from_filesystem(start.astype(np.int64), count, what)
    log = volume.sb.block_log
    volume.add_bytes(blocks << log, count << log, kind)


def _require_none(wrong: BoolArray, batch: InodeBatch, what: str) -> None:
    """Refuse the volume if an inode is wrong; names the first."""
    if wrong.any():
        number = int(batch.numbers[int(np.argmax(wrong))])
        raise corrupt(f"inode {number} {what}")
