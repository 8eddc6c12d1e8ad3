"""Allocation groups: their headers, free lists and trees.

All headers are read first and checked side by side, so that a volume that
was grown to thousands of groups costs little.

Source:
    XADS 13; Linux fs/xfs/libxfs/xfs_alloc.c (``xfs_agf_verify``,
    ``xfs_agfl_verify``), xfs_ialloc.c (``xfs_agi_verify``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import btree, layout
from vmsec.ondisk.xfs.feature import ReadOnlyCompat
from vmsec.ondisk.xfs.volume import corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.xfs.btree import Leaf, Tree, TreeReader
    from vmsec.ondisk.xfs.layout import ByteMatrix, Int64Array, RecordArray
    from vmsec.ondisk.xfs.volume import Volume


class Groups(NamedTuple):
    """The headers of all allocation groups, in order."""

    agf: RecordArray
    agi: RecordArray
    free_lists: ByteMatrix


class _Header(NamedTuple):
    """Where a header lies among the sectors, and what proves it."""

    name: str
    sector: int
    magic: int
    uuid: int
    crc: int


_AGF = _Header("AGF", 1, layout.AGF_MAGIC, layout.AGF_UUID, layout.AGF_CRC)
_AGI = _Header("AGI", 2, layout.AGI_MAGIC, layout.AGI_UUID, layout.AGI_CRC)
_AGFL = _Header(
    "AGFL", 3, layout.AGFL_MAGIC, layout.AGFL_UUID, layout.AGFL_CRC
)
_FIXED_BYTES = 512


def read_groups(volume: Volume) -> Groups:
    """Read, check and add the headers of all allocation groups.

    Raises:
        CorruptImageError: A header is wrong.
    """
    sb = volume.sb
    size = sb.sector_bytes
    starts = np.arange(sb.group_count) * (sb.group_blocks << sb.block_log)
    volume.add_bytes(starts, size, MetadataClass.SUPERBLOCK)
    volume.add_bytes(
        starts + size,
        size * (layout.AG_HEADER_SECTORS - 1),
        MetadataClass.GROUP_DESCRIPTORS,
    )
    rows = volume.read_rows(starts, size * layout.AG_HEADER_SECTORS)
    agf = _read(volume, starts, rows, _AGF).view(_type(layout.AGF))[:, 0]
    agi = _read(volume, starts, rows, _AGI).view(_type(layout.AGI))[:, 0]
    for name, records in (("AGF", agf), ("AGI", agi)):
        wrong = records["version"] != layout.AGH_VERSION
        wrong |= records["length"] != volume.group_lengths()
        _require_none(wrong, name)
    if sb.has_crc:
        _read(volume, starts, rows, _AGFL)
    return Groups(agf, agi, rows[:, 3 * size :])


def add_free_space(volume: Volume, trees: TreeReader, groups: Groups) -> None:
    """Add the free lists and the trees that nobody needs to read.

    Raises:
        CorruptImageError: A list or tree is wrong.
    """
    agf, sb = groups.agf, volume.sb
    _add_free_lists(volume, groups)
    _follow(volume, trees, btree.BNO, agf["root_bno"], agf["level_bno"])
    _follow(volume, trees, btree.CNT, agf["root_cnt"], agf["level_cnt"])
    if sb.has(ReadOnlyCompat.RMAPBT):
        _follow(volume, trees, btree.RMAP, agf["root_rmap"], agf["level_rmap"])
    if sb.has(ReadOnlyCompat.REFLINK):
        _follow(volume, trees, btree.REFC, agf["root_refc"], agf["level_refc"])
    if sb.has(ReadOnlyCompat.FINOBT):
        agi = groups.agi
        _follow(volume, trees, btree.FINO, agi["root_fino"], agi["level_fino"])


def read_inode_trees(
    volume: Volume, trees: TreeReader, groups: Groups
) -> Iterator[Leaf]:
    """Add the trees of inode chunks and yield their records.

    Raises:
        CorruptImageError: A tree is wrong.
    """
    agi = groups.agi
    blocks, levels = _roots(
        volume, btree.INO, agi["root_ino"], agi["level_ino"]
    )
    return trees.walk(btree.INO, blocks, levels, leaves=True)


def _follow(
    volume: Volume,
    trees: TreeReader,
    tree: Tree,
    roots: RecordArray,
    levels: RecordArray,
) -> None:
    """Add all blocks of one tree of every group."""
    for _ in trees.walk(
        tree, *_roots(volume, tree, roots, levels), leaves=False
    ):
        pass


def _roots(
    volume: Volume, tree: Tree, roots: RecordArray, levels: RecordArray
) -> tuple[Int64Array, Int64Array]:
    """Return linear blocks and levels (0 for a leaf) of the roots."""
    group = np.arange(volume.sb.group_count)
    what = f"the root of the {tree.name}"
    blocks = volume.linear(group, roots.astype(np.int64), 1, what)
    return blocks, levels.astype(np.int64) - 1


def _read(
    volume: Volume, starts: Int64Array, rows: ByteMatrix, header: _Header
) -> ByteMatrix:
    """Check one header of each group; return what is fixed of its sector."""
    size = volume.sb.sector_bytes
    sector = rows[:, header.sector * size : (header.sector + 1) * size].copy()
    words = sector[:, :12].view(">u4")
    wrong = words[:, 0] != header.magic
    number = 1 if header is _AGFL else 2
    wrong |= words[:, number] != np.arange(len(rows))
    if volume.sb.has_crc:
        ours = np.frombuffer(volume.sb.meta_uuid, dtype=np.uint8)
        uuid = sector[:, header.uuid : header.uuid + 16]
        wrong |= (uuid != ours).any(axis=1)
    _require_none(wrong, header.name)
    places = starts + header.sector * size
    volume.verify_checksums(places, sector, header.crc, f"the {header.name}")
    return np.ascontiguousarray(sector[:, :_FIXED_BYTES])


def _add_free_lists(volume: Volume, groups: Groups) -> None:
    """Add the blocks that are kept for the trees (XADS 13.2.3)."""
    skip = layout.AGFL_HEADER_BYTES if volume.sb.has_crc else 0
    size = volume.sb.sector_bytes
    entries = groups.free_lists[:, skip : skip + (size - skip) // 4 * 4]
    table = entries.copy().view(">u4").astype(np.int64)
    agf, length = groups.agf, table.shape[1]
    first, last = agf["flfirst"].astype(np.int64), agf["fllast"]
    count = agf["flcount"].astype(np.int64)
    _require_none(
        (first >= length) | (last >= length) | (count > length), "AGF"
    )
    # A ring; kernels before and after 4.5 count its slots differently, and
    # the newer one empties a list of the other length (xfs_agfl_needs_reset).
    used = (np.arange(length) - first[:, None]) % length < count[:, None]
    used &= table != layout.NULL_BLOCK
    group = np.broadcast_to(np.arange(len(table))[:, None], table.shape)
    blocks = volume.linear(group[used], table[used], 1, "a free-list block")
    volume.add_blocks(blocks, MetadataClass.BLOCK_BITMAP)


def _require_none(wrong: RecordArray, name: str) -> None:
    """Refuse the volume if a header is wrong in any group."""
    if wrong.any():
        raise corrupt(
            f"the {name} of group {int(np.argmax(wrong))} is not one"
        )


def _type(fields: tuple[layout.Field, ...]) -> np.dtype[Any]:
    """Return the record type of a header."""
    return layout.record_type(fields, _FIXED_BYTES)
