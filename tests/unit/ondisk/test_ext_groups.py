"""Group descriptors: what is refused, what is left out, where copies lie."""

from __future__ import annotations

import struct

import pytest

from tests.support.extvolume import BLOCK, GROUP_TABLE, Volume
from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.ext.checksum import CRC32C_START, crc32c
from vmsec.ondisk.extent import MetadataClass

GDT_CSUM, METADATA_CSUM, SPARSE_SUPER = 0x10, 0x400, 0x1
META_BG = 0x10
INODE_UNINIT, BLOCK_UNINIT = 0x1, 0x2
UUID = bytes(range(16))


def crc16(data: bytes) -> int:
    """CRC-16 as in Linux lib/crc16.c, bit by bit."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


def sign(volume: Volume, feature: int) -> Volume:
    """Write the checksums that a feature asks for."""
    volume.data[1024 + 0x68 : 1024 + 0x78] = UUID
    for group in range(volume.groups):
        at = GROUP_TABLE + 32 * group
        number = struct.pack("<I", group)
        body = bytes(volume.data[at : at + 32])
        if feature == METADATA_CSUM:
            body = body[:0x1E] + bytes(2)
            value = crc32c(CRC32C_START, UUID + number + body) & 0xFFFF
        else:
            value = crc16(UUID + number + body[:0x1E])
        struct.pack_into("<H", volume.data, at + 0x1E, value)
    if feature == METADATA_CSUM:
        volume.set("s_checksum_type", 1)
        value = crc32c(CRC32C_START, bytes(volume.data[1024 : 1024 + 0x3FC]))
        volume.set("s_checksum", value)
    return volume


def blocks_of(volume: Volume, kind: MetadataClass) -> list[int]:
    return [
        block
        for extent in map_ext(volume.source).extents
        if extent.kind is kind
        for block in range(extent.offset // BLOCK, extent.end // BLOCK)
    ]


def test_structures_of_every_group_are_mapped() -> None:
    volume = Volume(groups=2)
    kind = MetadataClass
    assert blocks_of(volume, kind.SUPERBLOCK) == [1, 257]
    assert blocks_of(volume, kind.GROUP_DESCRIPTORS) == [2, 258]
    assert blocks_of(volume, kind.BLOCK_BITMAP) == [3, 259]
    assert blocks_of(volume, kind.INODE_BITMAP) == [4, 260]
    tables = [*range(5, 13), *range(261, 269)]
    assert blocks_of(volume, kind.INODE_TABLE) == tables


@pytest.mark.parametrize(
    "places",
    [
        (0, 4, 5),
        (1, 4, 5),
        (3, 257, 5),
        (3, 4, 250),
        (3, 4, 0xFFFFFFFF),
        (3, 3, 5),
        (3, 4, 4),
        (7, 4, 5),
    ],
)
def test_structure_outside_or_over_another_is_refused(
    places: tuple[int, int, int],
) -> None:
    volume = Volume()
    volume.describe(0, *places)
    with pytest.raises(CorruptImageError, match="group 0"):
        map_ext(volume.source)


def test_two_groups_with_one_table_are_refused() -> None:
    volume = Volume(groups=2)
    volume.describe(1, 259, 260, 5)
    with pytest.raises(CorruptImageError, match="overlaps"):
        map_ext(volume.source)


@pytest.mark.parametrize("feature", [GDT_CSUM, METADATA_CSUM])
def test_uninitialised_parts_are_left_out_with_checksums(feature: int) -> None:
    volume = Volume(groups=2, s_feature_ro_compat=feature)
    volume.describe(0, 3, 4, 5, unused=40)
    volume.describe(1, 259, 260, 261, flags=INODE_UNINIT | BLOCK_UNINIT)
    sign(volume, feature)
    kind = MetadataClass
    assert blocks_of(volume, kind.BLOCK_BITMAP) == [3]
    assert blocks_of(volume, kind.INODE_BITMAP) == [4]
    assert blocks_of(volume, kind.INODE_TABLE) == [5, 6, 7]


def test_uninitialised_marks_mean_nothing_without_checksums() -> None:
    volume = Volume()
    volume.describe(0, 3, 4, 5, flags=0x3, unused=0xFFFF)
    assert len(blocks_of(volume, MetadataClass.INODE_TABLE)) == 8
    assert blocks_of(volume, MetadataClass.BLOCK_BITMAP) == [3]


@pytest.mark.parametrize("feature", [GDT_CSUM, METADATA_CSUM])
def test_descriptor_with_wrong_checksum_is_refused(feature: int) -> None:
    volume = Volume(groups=3, s_feature_ro_compat=feature)
    sign(volume, feature)
    map_ext(volume.source)
    volume.data[GROUP_TABLE + 2 * 32 + 0x14] ^= 1
    with pytest.raises(CorruptImageError, match="group 2 has a wrong check"):
        map_ext(volume.source)


def test_more_unused_inodes_than_inodes_are_refused() -> None:
    volume = Volume(groups=2, s_feature_ro_compat=GDT_CSUM)
    volume.describe(1, 259, 260, 261, unused=65)
    with pytest.raises(CorruptImageError, match="group 1 has more unused"):
        map_ext(sign(volume, GDT_CSUM).source)


def test_reserve_for_growth_lies_behind_every_descriptor_copy() -> None:
    volume = Volume(
        groups=4, s_feature_ro_compat=SPARSE_SUPER, s_reserved_gdt_blocks=5
    )
    for group in range(4):
        base = group * 256 + 20
        volume.describe(group, base, base + 1, base + 2)
    places = [*range(2, 8), *range(258, 264), *range(770, 776)]
    assert blocks_of(volume, MetadataClass.GROUP_DESCRIPTORS) == places


def test_copies_at_the_end_of_the_volume_are_cut_off() -> None:
    volume = Volume(groups=1, s_reserved_gdt_blocks=256)
    places = blocks_of(volume, MetadataClass.GROUP_DESCRIPTORS)
    assert max(places) == 256


def test_meta_groups_keep_three_copies_each() -> None:
    """32 descriptors to a block: groups 0, 1, 31 and 32, 33 of 34."""
    volume = Volume(
        groups=34,
        s_feature_incompat=META_BG,
        s_feature_ro_compat=SPARSE_SUPER,
    )
    second = volume.data[GROUP_TABLE + BLOCK : GROUP_TABLE + BLOCK + 64]
    volume.data[GROUP_TABLE + BLOCK : GROUP_TABLE + BLOCK + 64] = bytes(64)
    place = (1 + 32 * 256) * BLOCK
    volume.data[place : place + 64] = second
    volume.describe(0, 3, 4, 5)
    bases = [2, 256 + 2, 31 * 256 + 1, 32 * 256 + 1, 33 * 256 + 1]
    places = blocks_of(volume, MetadataClass.GROUP_DESCRIPTORS)
    assert places == bases
    assert blocks_of(volume, MetadataClass.SUPERBLOCK) == [
        1 + 256 * group for group in (0, 1, 3, 5, 7, 9, 25, 27)
    ]


def test_meta_groups_may_begin_behind_all_descriptors() -> None:
    """As resize2fs leaves it: the next meta group is yet to come."""
    volume = Volume(s_feature_incompat=META_BG, s_first_meta_bg=1)
    assert blocks_of(volume, MetadataClass.GROUP_DESCRIPTORS) == [2]


def test_volume_without_any_initialised_inode_has_no_table() -> None:
    volume = Volume(s_feature_ro_compat=GDT_CSUM)
    volume.describe(0, 3, 4, 5, flags=INODE_UNINIT)
    sign(volume, GDT_CSUM)
    assert blocks_of(volume, MetadataClass.INODE_TABLE) == []


def test_mmp_block_is_mapped() -> None:
    volume = Volume(s_feature_incompat=0x100, s_mmp_block=99)
    assert 99 in blocks_of(volume, MetadataClass.SUPERBLOCK)


def test_high_halves_count_with_64bit_descriptors_only() -> None:
    volume = Volume()
    struct.pack_into("<I", volume.data, GROUP_TABLE + 0x28, 1)
    map_ext(volume.source)
    volume.set("s_feature_incompat", 0x80)
    volume.set("s_desc_size", 64)
    with pytest.raises(CorruptImageError, match="outside the volume"):
        map_ext(volume.source)
    struct.pack_into("<I", volume.data, GROUP_TABLE + 0x28, 0)
    map_ext(volume.source)


def test_checksums_start_from_the_stored_seed() -> None:
    volume = Volume(
        s_feature_ro_compat=METADATA_CSUM, s_feature_incompat=0x2000
    )
    volume.set("s_checksum_seed", crc32c(CRC32C_START, UUID))
    sign(volume, METADATA_CSUM)
    volume.data[1024 + 0x68] ^= 1  # another UUID, the same seed
    value = crc32c(CRC32C_START, bytes(volume.data[1024 : 1024 + 0x3FC]))
    volume.set("s_checksum", value)
    map_ext(volume.source)
