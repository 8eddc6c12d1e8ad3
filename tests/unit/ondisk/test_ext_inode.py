"""Which inodes contribute what to the map."""

from __future__ import annotations

import struct

import pytest

from tests.support.extvolume import (
    BLOCK,
    DIRECTORY,
    EA_INODE,
    EXTENTS,
    INLINE,
    REGULAR,
    SYMLINK,
    Volume,
    extents,
)
from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import inode as module
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.extent import MetadataClass as Kind

HAS_JOURNAL, ORPHAN_FILE = 0x4, 0x1000
QUOTA, PROJECT, BIT64 = 0x100, 0x2000, 0x80
DEVICE = 0x6000
TABLES = frozenset(
    {
        Kind.BOOT_SECTOR,
        Kind.SUPERBLOCK,
        Kind.GROUP_DESCRIPTORS,
        Kind.BLOCK_BITMAP,
        Kind.INODE_BITMAP,
        Kind.INODE_TABLE,
    }
)


def beyond_tables(volume: Volume) -> dict[int, Kind]:
    """Return block -> class of all that only inodes lead to."""
    return {
        block: extent.kind
        for extent in map_ext(volume.source).extents
        if extent.kind not in TABLES
        for block in range(extent.offset // BLOCK, extent.end // BLOCK)
    }


def test_empty_volume_has_tables_only() -> None:
    volume = map_ext(Volume().source)
    assert {extent.kind for extent in volume.extents} == TABLES
    assert volume.extents[0] == (0, 1024, Kind.BOOT_SECTOR)
    assert (volume.filesystem, volume.notes) == ("ext2", ())


@pytest.mark.parametrize(
    ("mode", "flags", "size", "kind"),
    [
        (DIRECTORY, EXTENTS, 1024, Kind.DIRECTORY),
        (SYMLINK, EXTENTS, 60, Kind.SYMLINK),
        (SYMLINK, EXTENTS, 59, Kind.SYMLINK),
        (REGULAR, EXTENTS | EA_INODE, 9000, Kind.XATTR),
        (REGULAR, EXTENTS, 1024, None),
        (DEVICE, 0, 0, None),
        (0, EXTENTS, 1024, None),
    ],
)
def test_class_of_blocks_follows_the_type_of_the_inode(
    mode: int, flags: int, size: int, kind: Kind | None
) -> None:
    volume = Volume()
    volume.put_inode(20, mode, extents((40, 1)), flags=flags, size=size)
    assert beyond_tables(volume).get(40) is kind


def test_short_symlink_is_content_not_pointers() -> None:
    text = [int.from_bytes(b"usr/", "little")] * 14
    volume = Volume()
    volume.put_inode(20, SYMLINK, text, size=56)
    # Linux 2.6.2x set the extents flag on short links too.
    volume.put_inode(21, SYMLINK, text, size=56, flags=EXTENTS)
    assert beyond_tables(volume) == {}


def test_long_symlink_of_ext2_is_mapped() -> None:
    volume = Volume()
    volume.put_inode(20, SYMLINK, [44], size=60)
    assert beyond_tables(volume) == {44: Kind.SYMLINK}


@pytest.mark.parametrize("mode", [REGULAR, DIRECTORY, SYMLINK])
def test_inline_content_is_no_block_map(mode: int) -> None:
    volume = Volume()
    volume.put_inode(20, mode, [0xFFFFFFFF] * 15, flags=INLINE, size=60)
    assert beyond_tables(volume) == {}


def test_deleted_inode_is_left_alone() -> None:
    """ext2 keeps the pointers; the blocks may be another file's by now."""
    volume = Volume()
    volume.put_inode(20, DIRECTORY, [44], used=False)
    assert beyond_tables(volume) == {}


def test_attribute_block_counts_once_for_every_type() -> None:
    volume = Volume()
    for number, mode in ((20, REGULAR), (21, DEVICE), (22, SYMLINK)):
        volume.put_inode(number, mode, acl=77)
    volume.put_inode(23, DIRECTORY, acl=78)
    assert beyond_tables(volume) == {77: Kind.XATTR, 78: Kind.XATTR}


def test_attribute_block_outside_is_refused() -> None:
    volume = Volume()
    volume.put_inode(20, REGULAR, acl=257)
    with pytest.raises(CorruptImageError, match="xattr"):
        map_ext(volume.source)


def test_bad_blocks_stay_out_but_their_list_is_mapped() -> None:
    volume = Volume()
    volume.put_inode(1, 0, [50, *[0] * 11, 60])
    volume.put_words(60, [51])
    assert beyond_tables(volume) == {60: Kind.EXTENT_TREE}


def test_list_of_the_resize_inode_is_mapped_without_following_it() -> None:
    volume = Volume()
    volume.put_inode(7, REGULAR, [*[0] * 13, 61])
    volume.put_words(61, [0xFFFFFFFF])
    assert beyond_tables(volume) == {61: Kind.EXTENT_TREE}


def test_content_of_reserved_inodes_is_metadata_and_root_a_directory() -> None:
    volume = Volume()
    volume.put_inode(2, DIRECTORY, [49])
    volume.put_inode(5, REGULAR, [50])
    volume.put_inode(11, REGULAR, [51])
    assert beyond_tables(volume) == {
        49: Kind.DIRECTORY,
        50: Kind.SPECIAL_INODE,
    }


def test_quota_and_orphan_files_are_metadata_wherever_they_are() -> None:
    volume = Volume(
        s_feature_compat=ORPHAN_FILE,
        s_orphan_file_inum=30,
        s_feature_ro_compat=QUOTA | PROJECT,
        s_usr_quota_inum=3,
        s_grp_quota_inum=4,
        s_prj_quota_inum=31,
    )
    for number in (3, 4, 30, 31):
        volume.put_inode(number, REGULAR, [100 + number])
    volume.put_inode(32, REGULAR, [200])
    kinds = beyond_tables(volume)
    assert sorted(kinds) == [103, 104, 130, 131]
    assert set(kinds.values()) == {Kind.SPECIAL_INODE}


def test_journal_is_mapped_whole() -> None:
    volume = Volume(s_feature_compat=HAS_JOURNAL, s_journal_inum=8)
    volume.put_inode(8, REGULAR, [40, 41, 42, *[0] * 9, 43])
    volume.put_words(43, [44, 45])
    kinds = beyond_tables(volume)
    assert [b for b, kind in kinds.items() if kind is Kind.JOURNAL] == [
        *(40, 41, 42, 44, 45)
    ]


def test_missing_journal_is_refused() -> None:
    volume = Volume(s_feature_compat=HAS_JOURNAL, s_journal_inum=8)
    volume.put_inode(8, REGULAR, [40], used=False)
    with pytest.raises(CorruptImageError, match="journal"):
        map_ext(volume.source)


def test_notes_tell_of_what_the_map_cannot_hold() -> None:
    volume = Volume(
        s_feature_compat=HAS_JOURNAL, s_feature_incompat=0x4, s_state=0x2
    )
    notes = " ".join(map_ext(volume.source).notes)
    for part in ("another device", "not unmount", "not mapped", "errors"):
        assert part in notes


def test_large_tables_are_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = Volume(groups=3)
    for number in (1, 17, 63, 64, 65, 129, 190):
        volume.put_inode(number + 1, DIRECTORY, [number + 20])
    whole = beyond_tables(volume)
    monkeypatch.setattr(module, "READ_BYTES", 5 * 128)
    assert beyond_tables(volume) == whole
    assert len(whole) == 7


def test_high_part_of_attribute_blocks_counts_with_64bit_only() -> None:
    volume = Volume()
    volume.put_inode(20, REGULAR, acl=77)
    struct.pack_into("<H", volume.data, 5 * BLOCK + 19 * 128 + 0x76, 1)
    assert beyond_tables(volume) == {77: Kind.XATTR}
    volume.set("s_feature_incompat", BIT64)
    volume.set("s_desc_size", 64)
    with pytest.raises(CorruptImageError, match="xattr"):
        map_ext(volume.source)


def test_external_journal_is_mapped_whole() -> None:
    volume = Volume(
        s_feature_incompat=0x8, s_blocks_per_group=0, s_blocks_count_lo=200
    )
    result = map_ext(volume.source)
    assert result.filesystem == "jbd"
    assert result.extents == (
        (0, 1024, Kind.BOOT_SECTOR),
        (1024, 1024, Kind.SUPERBLOCK),
        (2048, 198 * 1024, Kind.JOURNAL),
    )
