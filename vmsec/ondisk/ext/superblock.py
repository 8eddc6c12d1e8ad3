"""The superblock of ext2, ext3 and ext4: parsed, and every number checked.

After :func:`parse_superblock` the geometry is consistent: the blocks fit the
source, the groups fit the blocks, the inodes fit the groups. What the group
descriptors say is checked in :mod:`vmsec.ondisk.ext.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import layout
from vmsec.ondisk.ext.checksum import CRC32C_START, crc32c
from vmsec.ondisk.ext.feature import (
    Compat,
    Incompat,
    ReadOnlyCompat,
    filesystem_name,
    require_supported,
)
from vmsec.ondisk.limits import require_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmsec.ondisk.source import BlockSource

MAX_GROUPS: Final = 1 << 20
"""128 TiB with 4 KiB blocks; 64 MiB of group descriptors."""

MAX_BYTES: Final = 1 << 60
"""1 EiB, the most that 48-bit block numbers of 4 KiB reach (overview.rst)."""

MAX_LOG_BLOCK_SIZE: Final = 6
"""64 KiB, the largest block of ext4 (super.rst, ``s_log_block_size``)."""

MAX_LOG_CLUSTER_SIZE: Final = 19
"""512 MiB, the largest cluster of e2fsprogs (EXT2_MAX_CLUSTER_LOG_SIZE)."""

MIN_BLOCKS_PER_GROUP: Final = 256
"""The least that mke2fs -g accepts."""

_TYPE: Final = layout.record_type(layout.SUPERBLOCK, layout.SUPERBLOCK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the superblock says, in the units of the specification.

    ``descriptor_bytes`` is 32, or more with 64BIT; ``checksum_seed`` starts
    every crc32c but the superblock's own; ``quota_inodes`` and
    ``orphan_file_inode`` are empty or 0 without their feature;
    ``backup_groups`` counts only with SPARSE_SUPER2.
    """

    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    checksum_seed: int
    state: int
    block_bytes: int
    block_count: int
    first_data_block: int
    blocks_per_group: int
    inode_count: int
    inodes_per_group: int
    inode_bytes: int
    first_inode: int
    descriptor_bytes: int
    reserved_gdt_blocks: int
    first_meta_group: int
    backup_groups: tuple[int, int]
    mmp_block: int
    journal_inode: int
    quota_inodes: tuple[int, ...]
    orphan_file_inode: int

    @property
    def filesystem(self) -> str:
        """``ext2``, ``ext3``, ``ext4``, or ``jbd`` for a journal device."""
        return filesystem_name(self.compat, self.incompat, self.ro_compat)

    @property
    def size_bytes(self) -> int:
        """Length of the file system in bytes."""
        return self.block_count * self.block_bytes

    @property
    def group_count(self) -> int:
        """Number of block groups."""
        blocks = self.block_count - self.first_data_block
        return -(-blocks // self.blocks_per_group)

    @property
    def descriptors_per_block(self) -> int:
        """Group descriptors in one block."""
        return self.block_bytes // self.descriptor_bytes

    @property
    def descriptor_blocks(self) -> int:
        """Blocks of the whole group descriptor table."""
        return -(-self.group_count // self.descriptors_per_block)

    @property
    def inode_table_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return -(-self.inodes_per_group * self.inode_bytes // self.block_bytes)

    @property
    def has_group_checksums(self) -> bool:
        """Whether descriptors have checksums, so that ``*_UNINIT`` counts."""
        return bool(
            self.ro_compat
            & (ReadOnlyCompat.GDT_CSUM | ReadOnlyCompat.METADATA_CSUM)
        )


def has_magic(source: BlockSource) -> bool:
    """Whether the source bears the magic number of ext where it should."""
    end = layout.SUPERBLOCK_OFFSET + layout.SUPERBLOCK_BYTES
    if source.size_bytes < end:
        return False
    magic = source.read_at(layout.SUPERBLOCK_OFFSET + 0x38, 2)
    return int.from_bytes(magic, "little") == layout.MAGIC


def parse_superblock(source: BlockSource) -> Superblock:
    """Read and check the primary superblock.

    1. magic and revision; 2. every feature is understood; 3. the checksum,
    where there is one; 4. sizes; 5. (not of a journal device) the geometry.
    That the journal's inode and the descriptors are right is checked by who
    reads them.

    Raises:
        UnsupportedFormatError: A feature or revision is not understood.
        CorruptImageError: A number or the checksum is wrong.
        LimitExceededError: More than :data:`MAX_GROUPS` groups.

    Source:
        Linux Documentation/filesystems/ext4/super.rst; the checks are those
        of fs/ext4/super.c (``ext4_check_geometry`` and its neighbours).
    """
    if not has_magic(source):
        raise _corrupt("the magic number is missing")
    data = source.read_at(layout.SUPERBLOCK_OFFSET, layout.SUPERBLOCK_BYTES)
    record = np.frombuffer(data, dtype=_TYPE)[0]
    raw = {field.name: int(record[field.name]) for field in layout.SUPERBLOCK}
    _require(  # 1
        raw["s_rev_level"] <= layout.DYNAMIC_REVISION, "revision"
    )
    dynamic = raw["s_rev_level"] == layout.DYNAMIC_REVISION
    features = [
        raw[name] if dynamic else 0
        for name in (
            "s_feature_compat",
            "s_feature_incompat",
            "s_feature_ro_compat",
        )
    ]
    require_supported(*features)  # 2
    if features[2] & ReadOnlyCompat.METADATA_CSUM:  # 3
        _verify_checksum(raw, data)
    sb = _build(
        raw, features, uuid=data[layout.SUPERBLOCK_UUID], dynamic=dynamic
    )
    require_limit(sb.size_bytes, MAX_BYTES, "the size of the ext volume")  # 4
    if sb.size_bytes > source.size_bytes:
        raise _corrupt(
            f"its {sb.size_bytes} bytes do not fit into the "
            f"{source.size_bytes} bytes there are"
        )
    if not sb.incompat & Incompat.JOURNAL_DEV:  # 5
        _verify_geometry(sb, raw)
    return sb


def _build(
    raw: Mapping[str, int], features: list[int], *, uuid: bytes, dynamic: bool
) -> Superblock:
    """Turn the record into values; only sizes of units are checked here."""
    compat, incompat, ro_compat = features
    log_block = raw["s_log_block_size"]
    _require(log_block <= MAX_LOG_BLOCK_SIZE, "block size")
    if incompat & Incompat.CSUM_SEED:
        seed = raw["s_checksum_seed"]
    else:
        seed = crc32c(CRC32C_START, uuid)
    return Superblock(
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=uuid,
        checksum_seed=seed,
        state=raw["s_state"],
        block_bytes=1024 << log_block,
        block_count=raw["s_blocks_count_lo"] | raw["s_blocks_count_hi"] << 32,
        first_data_block=raw["s_first_data_block"],
        blocks_per_group=raw["s_blocks_per_group"],
        inode_count=raw["s_inodes_count"],
        inodes_per_group=raw["s_inodes_per_group"],
        inode_bytes=raw["s_inode_size"]
        if dynamic
        else layout.GOOD_OLD_INODE_BYTES,
        first_inode=raw["s_first_ino"]
        if dynamic
        else layout.GOOD_OLD_FIRST_INODE,
        descriptor_bytes=raw["s_desc_size"]
        if incompat & Incompat.BIT64
        else layout.DESCRIPTOR_BYTES,
        reserved_gdt_blocks=raw["s_reserved_gdt_blocks"],
        first_meta_group=raw["s_first_meta_bg"],
        backup_groups=(
            raw["s_backup_bgs_0"],
            raw["s_backup_bgs_1"],
        ),
        mmp_block=raw["s_mmp_block"] if incompat & Incompat.MMP else 0,
        journal_inode=raw["s_journal_inum"]
        if compat & Compat.HAS_JOURNAL
        else 0,
        quota_inodes=_quota_inodes(raw, ro_compat),
        orphan_file_inode=raw["s_orphan_file_inum"]
        if compat & Compat.ORPHAN_FILE
        else 0,
    )


def _quota_inodes(raw: Mapping[str, int], ro_compat: int) -> tuple[int, ...]:
    """Return the inodes of the hidden quota files."""
    names = []
    if ro_compat & ReadOnlyCompat.QUOTA:
        names += ["s_usr_quota_inum", "s_grp_quota_inum"]
        if ro_compat & ReadOnlyCompat.PROJECT:
            names.append("s_prj_quota_inum")
    return tuple(number for name in names if (number := raw[name]))


def _verify_checksum(raw: Mapping[str, int], data: bytes) -> None:
    """Check the crc32c of the superblock (checksums.rst)."""
    _require(raw["s_checksum_type"] == layout.CHECKSUM_CRC32C, "checksum type")
    if crc32c(CRC32C_START, data[:0x3FC]) != raw["s_checksum"]:
        raise _corrupt("the checksum is wrong")


def _verify_geometry(sb: Superblock, raw: Mapping[str, int]) -> None:
    """Check blocks, groups, inodes and descriptors against one another."""
    bits = 8 * sb.block_bytes
    ratio = _cluster_ratio(sb, raw)
    # A 1 KiB cluster leaves block 0 to the boot sector (mke2fs).
    first = 1 if sb.block_bytes * ratio == 1024 else 0
    _require(sb.first_data_block == first, "first data block")
    _require(sb.block_count > first, "number of blocks")
    _require(
        MIN_BLOCKS_PER_GROUP <= sb.blocks_per_group <= bits * ratio,
        "number of blocks per group",
    )
    size = sb.inode_bytes
    _require(
        layout.GOOD_OLD_INODE_BYTES <= size <= sb.block_bytes
        and size & size - 1 == 0,
        "inode size",
    )
    _require(
        sb.block_bytes // size <= sb.inodes_per_group <= bits
        and sb.inodes_per_group % 8 == 0
        and sb.inode_table_blocks < sb.blocks_per_group,
        "number of inodes per group",
    )
    _verify_descriptor_size(sb)
    require_limit(sb.group_count, MAX_GROUPS, "the number of block groups")
    _require(
        sb.inode_count == sb.group_count * sb.inodes_per_group,
        "number of inodes",
    )
    _require(sb.first_inode >= layout.GOOD_OLD_FIRST_INODE, "first inode")
    _verify_references(sb)


def _cluster_ratio(sb: Superblock, raw: Mapping[str, int]) -> int:
    """Return blocks per cluster: 1 without BIGALLOC."""
    if not sb.ro_compat & ReadOnlyCompat.BIGALLOC:
        return 1
    log_cluster = raw["s_log_cluster_size"]
    _require(log_cluster <= MAX_LOG_CLUSTER_SIZE, "cluster size")
    _require(1024 << log_cluster >= sb.block_bytes, "cluster size")
    ratio = (1024 << log_cluster) // sb.block_bytes
    _require(
        sb.blocks_per_group == raw["s_clusters_per_group"] * ratio,
        "number of clusters per group",
    )
    return ratio


def _verify_descriptor_size(sb: Superblock) -> None:
    """Check ``s_desc_size`` and that the descriptors fit the first group."""
    if sb.incompat & Incompat.BIT64:
        size = sb.descriptor_bytes
        _require(
            layout.DESCRIPTOR_BYTES_64BIT
            <= size
            <= layout.MAX_DESCRIPTOR_BYTES
            and size & size - 1 == 0,
            "descriptor size",
        )
    if sb.incompat & Incompat.META_BG:
        _require(
            sb.first_meta_group <= sb.descriptor_blocks, "first meta group"
        )
    else:
        _require(
            sb.descriptor_blocks < sb.blocks_per_group,
            "number of group descriptors",
        )
    _require(
        sb.reserved_gdt_blocks <= sb.block_bytes // 4,
        "number of reserved descriptor blocks",
    )


def _verify_references(sb: Superblock) -> None:
    """Check the inodes and the block that the superblock points at."""
    _require(sb.mmp_block < sb.block_count, "MMP block")
    _require(
        max(sb.journal_inode, sb.orphan_file_inode, *sb.quota_inodes, 0)
        <= sb.inode_count,
        "inode of the journal, the quota or the orphan file",
    )


def _require(holds: bool, what: str) -> None:
    """Refuse the volume unless ``holds``."""
    if not holds:
        raise _corrupt(f"the {what} is wrong")


def _corrupt(reason: str) -> CorruptImageError:
    """Say what is wrong and what to do."""
    return CorruptImageError(
        f"ext superblock: {reason}; run e2fsck in the guest first"
    )
