"""The metadata map of an ext2, ext3 or ext4 volume.

What is in the map: everything that names, finds or describes a file. That is
the boot sector, the superblock, the group descriptors (also those of META_BG
and the reserve for growth) and all their backups; the bitmaps; the
initialised part of the inode tables; the journal; the blocks of directories;
the blocks of extent trees and indirect maps; attribute blocks and attribute
inodes; the targets of long symbolic links; the quota and orphan files and
what else hides in reserved inodes; the MMP block. File contents are not,
except those that the file system itself keeps inside an inode (INLINE_DATA).
The Merkle tree of a VERITY file counts as its content.

What cannot be in the map: blocks that *were* metadata and are free now, for
instance those of a deleted directory. Only what the file system knows is
found here; free space is for the guest's ``fstrim``. The same holds for the
rest of a BIGALLOC cluster behind the blocks that a file uses.

A guest that was cut off: the map is that of the volume after recovery (see
:mod:`vmsec.ondisk.ext.journal`), and holds the whole journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import layout
from vmsec.ondisk.ext.blockmap import BlockMap
from vmsec.ondisk.ext.feature import Compat, Incompat
from vmsec.ondisk.ext.groups import add_group_runs, read_groups
from vmsec.ondisk.ext.inode import (
    add_inode_runs,
    read_inode,
    read_inodes,
)
from vmsec.ondisk.ext.journal import (
    MAX_JOURNAL_BLOCKS,
    ReplayedSource,
    replay_journal,
)
from vmsec.ondisk.ext.superblock import Superblock, parse_superblock
from vmsec.ondisk.extent import MetadataClass, VolumeMap
from vmsec.ondisk.runs import RunCollector

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

STATE_ERRORS = 0x2
"""``s_state``: the kernel has seen errors."""


def map_ext(source: BlockSource) -> VolumeMap:
    """Find all metadata of an ext2, ext3 or ext4 volume.

    Args:
        source: The volume, beginning at its first byte.

    Returns:
        The map. Its ``filesystem`` is ``ext2``, ``ext3``, ``ext4``, or
        ``jbd`` for an external journal, which is mapped whole.

    Raises:
        UnsupportedFormatError: A feature is not understood.
        CorruptImageError: A structure is wrong; the guest must repair it.
        LimitExceededError: A number passes a limit.
        ImageIOError: The device failed.
    """
    sb = parse_superblock(source)
    notes = _notes(sb)
    if sb.incompat & Incompat.RECOVER and sb.journal_inode:
        source = _replay(source, sb)
        notes.append(
            f"{source.replayed_blocks} blocks of its journal were taken "
            "into account"
        )
        sb = parse_superblock(source)
    runs = _collector(sb)
    if sb.incompat & Incompat.JOURNAL_DEV:
        _add_journal_device(sb, runs)
    else:
        _add_volume(source, sb, runs)
    return VolumeMap(sb.filesystem, runs.merged(), tuple(notes))


def _collector(sb: Superblock) -> RunCollector:
    """Return an empty collector for a volume."""
    return RunCollector(
        block_bytes=sb.block_bytes,
        first_block=sb.first_data_block,
        block_count=sb.block_count,
        checker="e2fsck",
    )


def _replay(source: BlockSource, sb: Superblock) -> ReplayedSource:
    """Return the volume as it is after the guest's next mount."""
    groups = read_groups(source, sb)
    runs = _collector(sb)
    tree = BlockMap(source, sb.block_bytes, runs)
    inode = read_inode(source, sb, groups, sb.journal_inode)
    add_inode_runs(sb, inode, runs, tree)
    log = runs.blocks(MetadataClass.JOURNAL, MAX_JOURNAL_BLOCKS)
    return replay_journal(source, sb.block_bytes, log)


def _add_volume(
    source: BlockSource, sb: Superblock, runs: RunCollector
) -> None:
    """Add everything of a volume with files."""
    groups = read_groups(source, sb)
    add_group_runs(sb, groups, runs)
    tree = BlockMap(source, sb.block_bytes, runs)
    has_journal = not sb.journal_inode
    for batch in read_inodes(source, sb, groups):
        add_inode_runs(sb, batch, runs, tree)
        has_journal |= bool(np.any(batch.numbers == sb.journal_inode))
    if not has_journal:
        raise CorruptImageError(
            f"ext: inode {sb.journal_inode} of the journal is not in use; "
            "run e2fsck in the guest first"
        )


def _add_journal_device(sb: Superblock, runs: RunCollector) -> None:
    """Add an external journal: the superblock and all behind it."""
    end = layout.SUPERBLOCK_OFFSET + layout.SUPERBLOCK_BYTES
    if sb.size_bytes < end:
        raise CorruptImageError("ext: the journal device is too small")
    runs.add_bytes(0, layout.SUPERBLOCK_OFFSET, MetadataClass.BOOT_SECTOR)
    runs.add_bytes(
        layout.SUPERBLOCK_OFFSET,
        layout.SUPERBLOCK_BYTES,
        MetadataClass.SUPERBLOCK,
    )
    runs.add_bytes(end, sb.size_bytes - end, MetadataClass.JOURNAL)


def _notes(sb: Superblock) -> list[str]:
    """Say what the operator should know about this volume."""
    notes = []
    external = sb.compat & Compat.HAS_JOURNAL and not sb.journal_inode
    if external:
        notes.append(
            "the journal is on another device; seal that disk as well"
        )
    if sb.incompat & Incompat.RECOVER:
        notes.append("the guest did not unmount the file system")
        if external:
            notes.append(
                "directories that only the other device knows are not mapped"
            )
    if sb.state & STATE_ERRORS:
        notes.append("the guest has seen errors; run e2fsck in the guest")
    return notes
