"""The superblock refuses every number that does not fit the others."""

from __future__ import annotations

import pytest

from tests.support.extvolume import BLOCKS_PER_GROUP, Volume
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.ext import is_ext, map_ext
from vmsec.ondisk.ext.checksum import CRC32C_START, crc32c
from vmsec.ondisk.ext.groups import superblock_groups
from vmsec.ondisk.ext.superblock import parse_superblock
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.source import MemorySource

METADATA_CSUM, BIGALLOC, SPARSE_SUPER = 0x400, 0x200, 0x1
BIT64, META_BG, MMP, JOURNAL_DEV = 0x80, 0x10, 0x100, 0x8
SPARSE_SUPER2, HAS_JOURNAL, ORPHAN_FILE = 0x200, 0x4, 0x1000


def test_small_volume_is_read() -> None:
    sb = parse_superblock(Volume(groups=3).source)
    assert (sb.block_bytes, sb.group_count, sb.inode_count) == (1024, 3, 192)
    assert (sb.filesystem, sb.descriptor_blocks) == ("ext2", 1)


@pytest.mark.parametrize("size", [0, 1080, 2047])
def test_too_short_source_is_not_ext(size: int) -> None:
    source = MemorySource(bytes(Volume().data[:size]))
    assert not is_ext(source)
    with pytest.raises(CorruptImageError, match="magic"):
        map_ext(source)


def test_magic_alone_is_looked_at() -> None:
    assert is_ext(Volume().source)
    assert not is_ext(Volume(s_magic=0xEF54).source)


@pytest.mark.parametrize(
    "fields",
    [
        {"s_rev_level": 2},
        {"s_log_block_size": 7},
        {"s_log_block_size": 0xFFFFFFFF},
        {"s_first_data_block": 0},
        {"s_first_data_block": 0xFFFFFFFF},
        {"s_blocks_count_lo": 0},
        {"s_blocks_count_lo": 1},
        {"s_blocks_count_lo": BLOCKS_PER_GROUP + 2},
        {"s_blocks_count_hi": 1},
        {"s_blocks_per_group": 0},
        {"s_blocks_per_group": 8},
        {"s_blocks_per_group": 8193},
        {"s_inodes_per_group": 0},
        {"s_inodes_per_group": 65},
        {"s_inodes_per_group": 8200},
        {"s_inodes_count": 63},
        {"s_inode_size": 0},
        {"s_inode_size": 64},
        {"s_inode_size": 192},
        {"s_inode_size": 2048},
        {"s_first_ino": 0},
        {"s_reserved_gdt_blocks": 257},
        {"s_feature_incompat": BIT64, "s_desc_size": 0},
        {"s_feature_incompat": BIT64, "s_desc_size": 96},
        {"s_feature_incompat": BIT64, "s_desc_size": 2048},
        {"s_feature_incompat": META_BG, "s_first_meta_bg": 2},
        {"s_feature_incompat": MMP, "s_mmp_block": 2**64 - 1},
        {"s_feature_compat": HAS_JOURNAL, "s_journal_inum": 65},
        {"s_feature_compat": ORPHAN_FILE, "s_orphan_file_inum": 65},
        {"s_feature_ro_compat": 0x100, "s_usr_quota_inum": 65},
        {"s_feature_ro_compat": BIGALLOC, "s_log_cluster_size": 20},
        {"s_feature_ro_compat": BIGALLOC, "s_clusters_per_group": 64},
        {
            "s_feature_ro_compat": BIGALLOC,
            "s_log_block_size": 1,
            "s_log_cluster_size": 0,
        },
        {"s_feature_incompat": JOURNAL_DEV, "s_blocks_count_lo": 1},
    ],
    ids=str,
)
def test_number_that_does_not_fit_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(CorruptImageError):
        map_ext(Volume(**fields).source)


def test_more_groups_than_any_volume_has_are_refused() -> None:
    class Vast(MemorySource):
        size_bytes = 1 << 50

    volume = Volume(s_blocks_count_lo=0x30000000, s_feature_incompat=META_BG)
    with pytest.raises(LimitExceededError, match="block groups"):
        map_ext(Vast(volume.data))


def test_size_beyond_any_volume_is_refused() -> None:
    volume = Volume(s_blocks_count_hi=0xFFFFFFFF)
    with pytest.raises(LimitExceededError, match="size"):
        map_ext(volume.source)


@pytest.mark.parametrize(
    ("field", "bits", "said"),
    [
        ("s_feature_incompat", 0x1, "COMPRESSION"),
        ("s_feature_incompat", 0x1000, "DIRDATA"),
        ("s_feature_incompat", 0x40000, "incompat 0x40000"),
        ("s_feature_incompat", 0x20, "unnamed"),
        ("s_feature_ro_compat", 0x80, "HAS_SNAPSHOT"),
        ("s_feature_ro_compat", 0x80000000, "ro_compat 0x80000000"),
        ("s_feature_compat", 0x40, "LAZY_BG"),
        ("s_feature_compat", 0x2000, "compat 0x2000"),
    ],
)
def test_unknown_feature_is_refused_by_name(
    field: str, bits: int, said: str
) -> None:
    with pytest.raises(UnsupportedFormatError, match=said):
        map_ext(Volume(**{field: bits}).source)


def test_revision_0_has_no_features_and_fixed_sizes() -> None:
    volume = Volume(
        s_rev_level=0, s_feature_incompat=0xFFFF, s_inode_size=9, s_first_ino=0
    )
    sb = parse_superblock(volume.source)
    assert (sb.incompat, sb.inode_bytes, sb.first_inode) == (0, 128, 11)


def with_checksum(volume: Volume) -> Volume:
    body = bytes(volume.data[1024 : 1024 + 0x3FC])
    volume.set("s_checksum", crc32c(CRC32C_START, body))
    return volume


def test_superblock_with_wrong_checksum_is_refused() -> None:
    volume = Volume(s_feature_ro_compat=METADATA_CSUM, s_checksum_type=1)
    parse_superblock(with_checksum(volume).source)
    volume.data[1024 + 0x78] ^= 1  # a letter of the label
    with pytest.raises(CorruptImageError, match="e2fsck"):
        parse_superblock(volume.source)


def test_checksum_of_unknown_type_is_refused() -> None:
    volume = Volume(s_feature_ro_compat=METADATA_CSUM, s_checksum_type=2)
    with pytest.raises(CorruptImageError, match="checksum type"):
        parse_superblock(with_checksum(volume).source)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, list(range(12))),
        ({"s_feature_ro_compat": SPARSE_SUPER}, [0, 1, 3, 5, 7, 9]),
        ({"s_feature_compat": SPARSE_SUPER2}, [0]),
        (
            {
                "s_feature_compat": SPARSE_SUPER2,
                "s_feature_ro_compat": SPARSE_SUPER,
                "s_backup_bgs_0": 1,
                "s_backup_bgs_1": 11,
            },
            [0, 1, 11],
        ),
        (
            {"s_feature_compat": SPARSE_SUPER2, "s_backup_bgs_0": 12},
            [0],
        ),
    ],
    ids=str,
)
def test_groups_with_a_superblock(
    fields: dict[str, int], expected: list[int]
) -> None:
    sb = parse_superblock(Volume(groups=12, **fields).source)
    assert list(superblock_groups(sb)) == expected


def test_one_group_has_no_backup_with_sparse_super() -> None:
    sb = parse_superblock(Volume(s_feature_ro_compat=SPARSE_SUPER).source)
    assert list(superblock_groups(sb)) == [0]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "ext2"),
        ({"s_feature_incompat": 0x12, "s_feature_ro_compat": 0x3}, "ext2"),
        ({"s_feature_compat": HAS_JOURNAL}, "ext3"),
        ({"s_feature_incompat": 0x40}, "ext4"),
        ({"s_feature_ro_compat": 0x10}, "ext4"),
        ({"s_feature_incompat": JOURNAL_DEV}, "jbd"),
    ],
    ids=str,
)
def test_name_is_that_of_blkid(fields: dict[str, int], name: str) -> None:
    assert parse_superblock(Volume(**fields).source).filesystem == name


def test_bigalloc_with_1_kib_blocks_begins_at_block_0() -> None:
    volume = Volume(
        s_feature_ro_compat=BIGALLOC,
        s_log_cluster_size=4,
        s_clusters_per_group=16,
        s_first_data_block=0,
        s_blocks_count_lo=BLOCKS_PER_GROUP,
    )
    assert parse_superblock(volume.source).first_data_block == 0
    places = [
        extent.offset
        for extent in map_ext(volume.source).extents
        if extent.kind is MetadataClass.GROUP_DESCRIPTORS
    ]
    assert places == [2048]
