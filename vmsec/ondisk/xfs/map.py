"""The metadata map of an XFS volume.

What is in the map: everything that names, finds or describes a file. That is
the superblock and headers of every allocation group; the free lists; the
trees of free space, inode chunks, reverse map and reference counts; inode
chunks, whole; the extent trees of every inode; the blocks of directories, of
attributes with all their values, of symbolic links, of quota files and of the
realtime bitmaps; the log, whole. File contents are not.

What cannot be in the map: blocks that *were* metadata and are free now, for
instance those of a deleted directory. Only what the file system knows is
found here; free space is for the guest's ``fstrim``.

A guest that was cut off: the map is that of the volume after recovery (see
:mod:`vmsec.ondisk.xfs.replay`), and holds the whole log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmsec.ondisk.extent import MetadataClass, VolumeMap
from vmsec.ondisk.xfs.ag import (
    add_free_space,
    read_groups,
    read_inode_trees,
)
from vmsec.ondisk.xfs.btree import TreeReader
from vmsec.ondisk.xfs.chunk import ChunkReader
from vmsec.ondisk.xfs.inode import add_inodes
from vmsec.ondisk.xfs.replay import replay_log
from vmsec.ondisk.xfs.superblock import Superblock, parse_superblock
from vmsec.ondisk.xfs.volume import Volume

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource


def map_xfs(source: BlockSource) -> VolumeMap:
    """Find all metadata of an XFS volume, version 4 or 5.

    Args:
        source: The volume, beginning at its first byte.

    Raises:
        UnsupportedFormatError: A feature is not understood.
        CorruptImageError: A structure is wrong; the guest must repair it.
        LimitExceededError: A number passes a limit.
        ImageIOError: The device failed.
    """
    sb = parse_superblock(source)
    notes = _notes(sb)
    replayed = replay_log(source, sb) if sb.log_start else None
    volume = Volume(source, sb, np.zeros(0, dtype=np.int64))
    if replayed is not None:
        sb = parse_superblock(replayed, replayed=True)
        volume = Volume(replayed, sb, replayed.blocks)
        notes += [
            "the guest did not unmount the file system",
            f"{replayed.replayed_blocks} sectors of its log were taken into "
            "account",
        ]
    if sb.log_start:
        _add_log(volume)
    groups = read_groups(volume)
    trees = TreeReader(volume)
    add_free_space(volume, trees, groups)
    chunks = ChunkReader(volume)
    for leaf in read_inode_trees(volume, trees, groups):
        for batch in chunks.read(leaf):
            add_inodes(volume, trees, batch)
    return VolumeMap("xfs", volume.extents(), tuple(notes))


def _add_log(volume: Volume) -> None:
    """Add the whole internal log; the superblock's place was checked."""
    start = np.array([volume.sb.log_start])
    blocks = volume.from_filesystem(start, volume.sb.log_blocks, "the log")
    log = volume.sb.block_log
    volume.add_bytes(
        blocks << log, volume.sb.log_blocks << log, MetadataClass.JOURNAL
    )


def _notes(sb: Superblock) -> list[str]:
    """Say what the operator should know about this volume."""
    notes = []
    if not sb.log_start:
        notes.append(
            "the log is on another device; seal that disk as well; what only "
            "it knows is not mapped"
        )
    if sb.realtime_blocks:
        notes.append(
            "the realtime device is another disk; it holds contents of files"
        )
    return notes
