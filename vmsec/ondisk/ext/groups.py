"""Block groups: where bitmaps, inode tables and all the backups lie.

Source:
    Linux Documentation/filesystems/ext4: group_descr.rst, blockgroup.rst
    (META_BG, flexible and lazily initialised groups), bigalloc.rst;
    e2fsprogs lib/ext2fs/closefs.c (``ext2fs_super_and_bgd_loc2``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import layout
from vmsec.ondisk.ext.checksum import (
    CRC16_START,
    CRC16_TABLE,
    CRC32C_TABLE,
    checksum_rows,
)
from vmsec.ondisk.ext.feature import Compat, Incompat, ReadOnlyCompat
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.ext.layout import BoolArray, Int64Array, RecordArray
    from vmsec.ondisk.ext.superblock import Superblock
    from vmsec.ondisk.runs import RunCollector
    from vmsec.ondisk.source import BlockSource


@dataclass(frozen=True, slots=True)
class GroupTable:
    """One row per group, in group order.

    ``block_bitmap``, ``inode_bitmap`` and ``inode_table`` are block numbers;
    ``used_inodes`` counts the initialised inodes at the head of the table;
    ``has_block_bitmap`` says whether the block bitmap was ever written.
    """

    block_bitmap: Int64Array
    inode_bitmap: Int64Array
    inode_table: Int64Array
    used_inodes: Int64Array
    has_block_bitmap: BoolArray


def read_groups(source: BlockSource, sb: Superblock) -> GroupTable:
    """Read and check the group descriptors.

    Args:
        source: The volume.
        sb: Its superblock.

    Raises:
        CorruptImageError: A checksum is wrong, a bitmap or table lies outside
            the volume, or two of them overlap.
    """
    size = sb.descriptor_bytes
    data = _read_descriptors(source, sb)[: sb.group_count * size]
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    _verify_checksums(sb, rows)
    fields = layout.GROUP_DESCRIPTOR
    if sb.incompat & Incompat.BIT64:
        fields += layout.GROUP_DESCRIPTOR_HIGH
    raw = np.frombuffer(data, dtype=layout.record_type(fields, size))
    flags = raw["bg_flags"] if sb.has_group_checksums else raw["bg_flags"] & 0
    unused = _wide(raw, "bg_itable_unused", 16)
    # bg_itable_unused means nothing without checksums (group_descr.rst).
    used = sb.inodes_per_group - unused * int(sb.has_group_checksums)
    if (used < 0).any():
        raise _corrupt(used < 0, "more unused inodes than inodes")
    used[(flags & layout.BG_INODE_UNINIT) != 0] = 0
    table = GroupTable(
        block_bitmap=_wide(raw, "bg_block_bitmap", 32),
        inode_bitmap=_wide(raw, "bg_inode_bitmap", 32),
        inode_table=_wide(raw, "bg_inode_table", 32),
        used_inodes=used,
        has_block_bitmap=(flags & layout.BG_BLOCK_UNINIT) == 0,
    )
    _verify_places(sb, table)
    return table


def add_group_runs(
    sb: Superblock, groups: GroupTable, runs: RunCollector
) -> None:
    """Add bitmaps, inode tables, superblocks, descriptors and MMP block.

    Of an inode table only the blocks with initialised inodes are added: the
    rest was never written by this file system.
    """
    kind = MetadataClass
    full = groups.used_inodes > 0
    table_blocks = -(-groups.used_inodes * sb.inode_bytes // sb.block_bytes)
    runs.add(
        groups.block_bitmap[groups.has_block_bitmap], 1, kind.BLOCK_BITMAP
    )
    runs.add(groups.inode_bitmap[full], 1, kind.INODE_BITMAP)
    runs.add(groups.inode_table[full], table_blocks[full], kind.INODE_TABLE)
    head = layout.SUPERBLOCK_OFFSET
    runs.add_bytes(0, head, kind.BOOT_SECTOR)
    # The rest of a larger block 0 belongs to nobody, so it goes along.
    end = max(head + layout.SUPERBLOCK_BYTES, sb.block_bytes)
    runs.add_bytes(head, end - head, kind.SUPERBLOCK)
    for group in superblock_groups(sb):
        _add_copies(sb, group, runs)
    if sb.incompat & Incompat.META_BG:
        _add_meta_groups(sb, runs)
    if sb.mmp_block:
        runs.add(sb.mmp_block, 1, kind.SUPERBLOCK)


def superblock_groups(sb: Superblock) -> Iterator[int]:
    """Yield the groups that hold a superblock: group 0 and the backups."""
    count = sb.group_count
    if sb.compat & Compat.SPARSE_SUPER2:
        yield from sorted({0, *(g for g in sb.backup_groups if g < count)})
    elif sb.ro_compat & ReadOnlyCompat.SPARSE_SUPER:
        powers = {0, 1}
        for base in (3, 5, 7):
            power = base
            while power < count:
                powers.add(power)
                power *= base
        yield from sorted(group for group in powers if group < count)
    else:
        yield from range(count)


def _first_block(sb: Superblock, group: int) -> int:
    """Return the block of a group where a superblock copy may lie."""
    block = sb.first_data_block + group * sb.blocks_per_group
    # With BIGALLOC and 1 KiB blocks group 0 begins at block 0, but the
    # superblock is always at byte 1024 (closefs.c).
    return 1 if block == 0 and sb.block_bytes == 1024 else block


def _add_copies(sb: Superblock, group: int, runs: RunCollector) -> None:
    """Add one superblock and, behind it, descriptors and their reserve."""
    block = _first_block(sb, group)
    if group:
        runs.add(block, 1, MetadataClass.SUPERBLOCK)
    blocks = sb.descriptor_blocks + sb.reserved_gdt_blocks
    if sb.incompat & Incompat.META_BG:
        blocks = sb.first_meta_group
        if group // sb.descriptors_per_block >= sb.first_meta_group:
            blocks = 0
    blocks = min(blocks, sb.block_count - block - 1)
    runs.add(block + 1, blocks, MetadataClass.GROUP_DESCRIPTORS)


def _add_meta_groups(sb: Superblock, runs: RunCollector) -> None:
    """Add the descriptors that META_BG keeps in every meta group.

    One block, in its first, second and last group (blockgroup.rst).
    """
    per_block = sb.descriptors_per_block
    with_super = set(superblock_groups(sb))
    for meta in range(sb.first_meta_group, sb.descriptor_blocks):
        for place in {0, 1, per_block - 1}:
            group = meta * per_block + place
            if group < sb.group_count:
                block = _first_block(sb, group) + (group in with_super)
                runs.add(block, 1, MetadataClass.GROUP_DESCRIPTORS)


def _read_descriptors(source: BlockSource, sb: Superblock) -> bytes:
    """Read the primary descriptors, wherever META_BG keeps them."""
    old = sb.descriptor_blocks
    if sb.incompat & Incompat.META_BG:
        old = min(old, sb.first_meta_group)
    size = sb.block_bytes
    start = _first_block(sb, 0) + 1
    parts = [source.read_at(start * size, old * size)]
    if old < sb.descriptor_blocks:
        with_super = set(superblock_groups(sb))
        for meta in range(old, sb.descriptor_blocks):
            group = meta * sb.descriptors_per_block
            block = _first_block(sb, group) + (group in with_super)
            parts.append(source.read_at(block * size, size))
    return b"".join(parts)


def _wide(raw: RecordArray, name: str, bits: int) -> Int64Array:
    """Join the low and, with 64BIT, the high half of a field."""
    value: Int64Array = raw[f"{name}_lo"].astype(np.int64)
    if f"{name}_hi" in (raw.dtype.names or ()):
        value |= raw[f"{name}_hi"].astype(np.int64) << bits
    return value


def _verify_checksums(sb: Superblock, rows: RecordArray) -> None:
    """Check ``bg_checksum`` of every group (checksums.rst)."""
    if not sb.has_group_checksums:
        return
    at = layout.DESCRIPTOR_CHECKSUM_OFFSET
    stored = rows[:, at].astype(np.uint32)
    stored |= rows[:, at + 1].astype(np.uint32) << 8
    numbers = np.arange(len(rows), dtype="<u4").view(np.uint8).reshape(-1, 4)
    if sb.ro_compat & ReadOnlyCompat.METADATA_CSUM:
        body = rows.copy()
        body[:, at : at + 2] = 0
        text = np.hstack([numbers, body])
        sums = checksum_rows(CRC32C_TABLE, sb.checksum_seed, text)
    else:
        text = np.hstack([numbers, rows[:, :at], rows[:, at + 2 :]])
        uuid = np.frombuffer(sb.uuid, dtype=np.uint8).reshape(1, -1)
        start = checksum_rows(CRC16_TABLE, CRC16_START, uuid)
        sums = checksum_rows(CRC16_TABLE, int(start[0]), text)
    wrong = (sums & 0xFFFF) != stored
    if wrong.any():
        raise _corrupt(wrong, "a wrong checksum")


def _verify_places(sb: Superblock, groups: GroupTable) -> None:
    """Check that bitmaps and tables lie inside and apart from each other."""
    count = len(groups.inode_table)
    starts = np.concatenate(
        [groups.block_bitmap, groups.inode_bitmap, groups.inode_table]
    )
    lengths = np.repeat([1, 1, sb.inode_table_blocks], count)
    owners = np.tile(np.arange(count), 3)
    wrong = (starts <= sb.first_data_block) | (starts > sb.block_count)
    wrong |= starts + lengths > sb.block_count
    if wrong.any():
        raise _corrupt_group(
            int(owners[np.argmax(wrong)]), "a structure outside the volume"
        )
    order = np.argsort(starts, kind="stable")
    apart = starts[order][1:] >= (starts + lengths)[order][:-1]
    if not apart.all():
        raise _corrupt_group(
            int(owners[order][1:][np.argmin(apart)]),
            "a bitmap or inode table that overlaps another",
        )


def _corrupt(wrong: BoolArray, what: str) -> CorruptImageError:
    """Name the first wrong group."""
    return _corrupt_group(int(np.argmax(wrong)), what)


def _corrupt_group(group: int, what: str) -> CorruptImageError:
    """Say what is wrong with one group and what to do."""
    return CorruptImageError(
        f"ext group {group} has {what}; run e2fsck in the guest first"
    )
