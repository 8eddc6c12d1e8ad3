"""The superblock of XFS: parsed, and every number checked.

After :func:`parse_superblock` the geometry is consistent: the groups fit the
blocks, the blocks fit the source, the log lies in one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.crc32c import START, crc32c
from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.xfs import layout
from vmsec.ondisk.xfs.feature import (
    VERSION_5,
    VERSION_MASK,
    Incompat,
    ReadOnlyCompat,
    Version,
    require_supported,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmsec.ondisk.source import BlockSource

MAX_GROUPS: Final = 1 << 20
"""16 TiB in the smallest groups that mkfs.xfs makes (16 MiB); 1 PiB and more
in those that it chooses itself."""

MAX_BYTES: Final = 1 << 62
"""Half of what Linux can address (XFS_MAX_DBLOCKS); keeps int64 arithmetic
exact."""

MIN_BLOCK_LOG, MAX_BLOCK_LOG = 9, 16
"""512 bytes to 64 KiB (XFS_MIN_BLOCKSIZE_LOG, XFS_MAX_BLOCKSIZE_LOG)."""

MIN_SECTOR_LOG, MAX_SECTOR_LOG = 9, 15
MIN_INODE_LOG, MAX_INODE_LOG = 8, 11
"""256 to 2048 bytes (XFS_DINODE_MIN_LOG, XFS_DINODE_MAX_LOG)."""

MAX_INODE: Final = (1 << 56) - 1
"""XFS_MAXINUMBER."""

MIN_GROUP_BLOCKS: Final = 64
"""XFS_MIN_AG_BLOCKS."""

_TYPE: Final = layout.record_type(layout.SUPERBLOCK, layout.SUPERBLOCK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the superblock says, in the units of the specification.

    ``meta_uuid`` is the one that metadata bears; ``log_start`` is a file
    system block, 0 for an external log; ``special_inodes`` are those of
    quotas and of the realtime device.
    """

    has_crc: bool
    version: int
    ro_compat: int
    incompat: int
    uuid: bytes
    meta_uuid: bytes
    block_log: int
    block_count: int
    realtime_blocks: int
    group_blocks: int
    group_block_log: int
    group_count: int
    sector_bytes: int
    inode_log: int
    log_start: int
    log_blocks: int
    special_inodes: tuple[int, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return 1 << self.block_log

    @property
    def inode_bytes(self) -> int:
        """Bytes of an inode."""
        return 1 << self.inode_log

    @property
    def size_bytes(self) -> int:
        """Length of the file system in bytes."""
        return self.block_count << self.block_log

    @property
    def last_group_blocks(self) -> int:
        """Blocks of the last allocation group."""
        return self.block_count - (self.group_count - 1) * self.group_blocks

    @property
    def inode_number_log(self) -> int:
        """Bits of an inode number that are left of the group's number."""
        return self.group_block_log + self.block_log - self.inode_log

    @property
    def has_sparse_chunks(self) -> bool:
        """Whether inode chunks may have holes."""
        return bool(self.incompat & Incompat.SPINODES)

    @property
    def has_large_log_records(self) -> bool:
        """Whether the log is of version 2."""
        return self.has_crc or bool(self.version & Version.LOGV2)

    def has(self, feature: ReadOnlyCompat) -> bool:
        """Whether a tree of the allocation groups exists."""
        return bool(self.ro_compat & feature)


def is_xfs(source: BlockSource) -> bool:
    """Whether the source bears the magic number of XFS."""
    if source.size_bytes < layout.SUPERBLOCK_BYTES:
        return False
    magic = int.from_bytes(source.read_at(0, 4), "big")
    return magic == layout.SUPERBLOCK_MAGIC


def parse_superblock(
    source: BlockSource, *, replayed: bool = False
) -> Superblock:
    """Read and check the primary superblock.

    1. magic; 2. every feature is understood; 3. sizes of units; 4. the
    checksum, where there is one; 5. the geometry; 6. the log. The other
    superblocks are mapped, not read: mount does not read them either.

    Args:
        source: The volume.
        replayed: Whether the superblock may come from the log: the guest
            computes its checksum when it writes it to its place.

    Raises:
        UnsupportedFormatError: A feature or version is not understood.
        CorruptImageError: A number or the checksum is wrong.
        LimitExceededError: More than :data:`MAX_GROUPS` groups.

    Source:
        XADS 13.1; the checks are those of fs/xfs/libxfs/xfs_sb.c
        (``xfs_validate_sb_common``).
    """
    _require(is_xfs(source), "magic number")  # 1
    data = source.read_at(0, layout.SUPERBLOCK_BYTES)
    record = np.frombuffer(data, dtype=_TYPE)[0]
    raw = {field.name: int(record[field.name]) for field in layout.SUPERBLOCK}
    require_supported(raw)  # 2
    _verify_units(raw)  # 3
    sb = _build(raw, data)
    if sb.has_crc and not replayed:  # 4
        _verify_checksum(source, sb, raw["sb_crc"])
    _require(raw["sb_inprogress"] == 0, "mark of an unfinished mkfs.xfs")
    _verify_geometry(sb, source.size_bytes)  # 5
    _require(
        max(sb.special_inodes, default=0) <= MAX_INODE,
        "inode of a quota or of the realtime device",
    )
    _verify_log(sb)  # 6
    return sb


def _build(raw: Mapping[str, int], data: bytes) -> Superblock:
    """Turn the record into values."""
    has_crc = raw["sb_versionnum"] & VERSION_MASK == VERSION_5
    incompat = raw["sb_features_incompat"] if has_crc else 0
    uuid = data[layout.SUPERBLOCK_UUID]
    own = data[layout.SUPERBLOCK_META_UUID]
    return Superblock(
        has_crc=has_crc,
        version=raw["sb_versionnum"],
        ro_compat=raw["sb_features_ro_compat"] if has_crc else 0,
        incompat=incompat,
        uuid=uuid,
        meta_uuid=own if incompat & Incompat.META_UUID else uuid,
        block_log=raw["sb_blocklog"],
        block_count=raw["sb_dblocks"],
        realtime_blocks=raw["sb_rblocks"],
        group_blocks=raw["sb_agblocks"],
        group_block_log=raw["sb_agblklog"],
        group_count=raw["sb_agcount"],
        sector_bytes=raw["sb_sectsize"],
        inode_log=raw["sb_inodelog"],
        log_start=raw["sb_logstart"],
        log_blocks=raw["sb_logblocks"],
        special_inodes=_special_inodes(raw, has_crc=has_crc),
    )


def _special_inodes(
    raw: Mapping[str, int], *, has_crc: bool
) -> tuple[int, ...]:
    """Return the inodes whose data is metadata, each once."""
    names = ["sb_rbmino", "sb_rsumino"]
    if raw["sb_versionnum"] & Version.QUOTA:
        names += ["sb_uquotino", "sb_gquotino"]
        if has_crc:
            names.append("sb_pquotino")
    numbers = {raw[name] for name in names} - {0, layout.NULL_INODE}
    return tuple(sorted(numbers))


def _verify_units(raw: Mapping[str, int]) -> None:
    """Check blocks, sectors, inodes and directory blocks."""
    block, sector = raw["sb_blocklog"], raw["sb_sectlog"]
    inode = raw["sb_inodelog"]
    _require(
        MIN_BLOCK_LOG <= block <= MAX_BLOCK_LOG
        and raw["sb_blocksize"] == 1 << block,
        "block size",
    )
    _require(
        MIN_SECTOR_LOG <= sector <= min(MAX_SECTOR_LOG, block)
        and raw["sb_sectsize"] == 1 << sector,
        "sector size",
    )
    _require(
        MIN_INODE_LOG <= inode <= min(MAX_INODE_LOG, block)
        and raw["sb_inodesize"] == 1 << inode
        and raw["sb_inopblog"] == block - inode
        and raw["sb_inopblock"] == 1 << block - inode,
        "inode size",
    )
    _require(
        raw["sb_dirblklog"] + block <= MAX_BLOCK_LOG, "directory block size"
    )


def _verify_checksum(
    source: BlockSource, sb: Superblock, expected: int
) -> None:
    """Check the crc32c of the sector (xfs_sb_read_verify)."""
    _require(source.size_bytes >= sb.sector_bytes, "sector size")
    sector = bytearray(source.read_at(0, sb.sector_bytes))
    place = layout.SUPERBLOCK_CRC
    sector[place : place + 4] = bytes(4)
    _require(crc32c(START, bytes(sector)) ^ START == expected, "checksum")


def _verify_geometry(sb: Superblock, size_bytes: int) -> None:
    """Check groups and blocks against one another and the source."""
    require_limit(
        sb.group_count, MAX_GROUPS, "the number of XFS allocation groups"
    )
    _require(
        MIN_GROUP_BLOCKS <= sb.group_blocks < layout.NULL_BLOCK
        and sb.group_block_log == (sb.group_blocks - 1).bit_length(),
        "size of the allocation groups",
    )
    # A sector is no larger than a block: the headers fit any group.
    _require(
        sb.group_count >= 1
        and MIN_GROUP_BLOCKS <= sb.last_group_blocks <= sb.group_blocks,
        "number of allocation groups",
    )
    require_limit(sb.size_bytes, MAX_BYTES, "the size of the XFS volume")
    if sb.size_bytes > size_bytes:
        raise CorruptImageError(
            f"xfs superblock: its {sb.size_bytes} bytes do not fit into the "
            f"{size_bytes} bytes there are; the disk was cut short"
        )


def _verify_log(sb: Superblock) -> None:
    """Check that an internal log lies inside one group."""
    if not sb.log_start:
        return
    group = sb.log_start >> sb.group_block_log
    block = sb.log_start & (1 << sb.group_block_log) - 1
    last = group == sb.group_count - 1
    blocks = sb.last_group_blocks if last else sb.group_blocks
    _require(
        group < sb.group_count
        and sb.log_blocks > 0
        and block + sb.log_blocks <= blocks,
        "place of the log",
    )


def _require(holds: bool, what: str) -> None:
    """Refuse the volume unless ``holds``."""
    if not holds:
        raise CorruptImageError(
            f"xfs superblock: the {what} is wrong; run xfs_repair in the "
            "guest first"
        )
