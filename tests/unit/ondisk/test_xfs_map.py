"""The XFS map of small volumes made by hand: what is in, what is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.xfsvolume import (
    BLOCK,
    BTREE,
    CHUNK,
    DEVICE,
    DIRECTORY,
    EXTENTS,
    GROUP_BLOCKS,
    GROUP_LOG,
    INO,
    INODE,
    LARGE_COUNTS,
    LOCAL,
    REGULAR,
    SYMLINK,
    XFSVolume,
    extent,
    root,
)
from vmsec.errors import CorruptImageError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.source import MemorySource
from vmsec.ondisk.xfs import map_xfs

if TYPE_CHECKING:
    from vmsec.ondisk.extent import VolumeMap

Kind = MetadataClass
FIRST = CHUNK * BLOCK // INODE
INO_MAGIC = (b"IABT", b"IAB3")
BNO_MAGIC = (b"ABTB", b"AB3B")
SPARSE = 0x3


@pytest.fixture(params=[4, 5])
def volume(request: pytest.FixtureRequest) -> XFSVolume:
    return XFSVolume(has_crc=request.param == 5)


def blocks(found: VolumeMap, kind: MetadataClass) -> list[int]:
    """The linear blocks of a class."""
    return [
        block
        for item in found.extents
        if item.kind is kind
        for block in range(item.offset // BLOCK, -(-item.end // BLOCK))
    ]


def refused(volume: XFSVolume, words: str) -> None:
    with pytest.raises(CorruptImageError, match=words):
        map_xfs(volume.source())


def test_every_group_has_its_headers_trees_list_and_chunk(
    volume: XFSVolume,
) -> None:
    found = map_xfs(volume.source())
    assert found.filesystem == "xfs"
    assert "another device" in found.notes[0]
    both = (0, GROUP_BLOCKS)
    assert blocks(found, Kind.SUPERBLOCK) == list(both)
    free = [start + n for start in both for n in (2, 3, 6, 7)]
    assert blocks(found, Kind.BLOCK_BITMAP) == free
    assert blocks(found, Kind.INODE_BITMAP) == [b + INO for b in both]
    chunk = [b + CHUNK + n for b in both for n in range(32)]
    assert blocks(found, Kind.INODE_TABLE) == chunk
    headers = [e for e in found.extents if e.kind is Kind.GROUP_DESCRIPTORS]
    assert [(e.offset, e.length) for e in headers] == [
        (start * BLOCK + 512, 1536) for start in both
    ]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (DIRECTORY, Kind.DIRECTORY),
        (SYMLINK, Kind.SYMLINK),
        (REGULAR, None),
        (0x1000, None),
    ],
)
def test_inline_extents_of_metadata_are_mapped_and_of_files_not(
    volume: XFSVolume, mode: int, kind: MetadataClass | None
) -> None:
    second = 1 << GROUP_LOG | 100
    volume.inode(3, mode, EXTENTS, extent(100, 2) + extent(second, 1))
    found = map_xfs(volume.source())
    expected = [100, 101, GROUP_BLOCKS + 100] if kind else []
    mapped = blocks(found, kind) if kind else blocks(found, Kind.DIRECTORY)
    assert mapped == expected


def test_attribute_forks_are_mapped_of_files_too(volume: XFSVolume) -> None:
    fork = (10, EXTENTS, extent(110, 3))
    volume.inode(
        0,
        *(REGULAR, EXTENTS, extent(100, 1)),
        attributes=fork,
        attribute_extents=1,
    )
    assert blocks(map_xfs(volume.source()), Kind.XATTR) == [110, 111, 112]


def test_large_counts_move_the_count_of_the_attribute_fork() -> None:
    volume = XFSVolume()
    volume.inode(
        0,
        *(DIRECTORY, EXTENTS, extent(100, 1) + extent(120, 1)),
        attributes=(10, EXTENTS, extent(110, 1)),
        attribute_extents=1,
        flags2=LARGE_COUNTS,
    )
    found = map_xfs(volume.source())
    assert blocks(found, Kind.DIRECTORY) == [100, 120]
    assert blocks(found, Kind.XATTR) == [110]


@pytest.mark.parametrize("mode", [DIRECTORY, REGULAR])
def test_extent_trees_are_mapped_to_their_leaves(
    volume: XFSVolume, mode: int
) -> None:
    volume.inode(0, mode, BTREE, root(2, [90], volume.fork_bytes))
    volume.long_block(90, 1, volume.pointers([91, 92], 8, "Q"), 2)
    volume.long_block(91, 0, extent(100, 1), 1)
    volume.long_block(92, 0, extent(130, 2), 1)
    found = map_xfs(volume.source())
    assert blocks(found, Kind.EXTENT_TREE) == [90, 91, 92]
    data = [100, 130, 131] if mode == DIRECTORY else []
    assert blocks(found, Kind.DIRECTORY) == data


def test_leaves_of_files_are_mapped_but_not_read(volume: XFSVolume) -> None:
    volume.inode(0, REGULAR, BTREE, root(1, [90], volume.fork_bytes))
    assert blocks(map_xfs(volume.source()), Kind.EXTENT_TREE) == [90]
    volume.inode(0, DIRECTORY, BTREE, root(1, [90], volume.fork_bytes))
    refused(volume, "block 90 is not the bmbt block")


def test_special_inodes_are_metadata(volume: XFSVolume) -> None:
    number = volume.inode(5, REGULAR, EXTENTS, extent(100, 1))
    volume.set("sb_rbmino", number)
    assert blocks(map_xfs(volume.source()), Kind.SPECIAL_INODE) == [100]


def test_free_inodes_are_mapped_but_not_read(volume: XFSVolume) -> None:
    at = CHUNK * BLOCK
    volume.data[at : at + 512] = b"\xa5" * 512
    assert CHUNK in blocks(map_xfs(volume.source()), Kind.INODE_TABLE)


def test_trees_of_two_levels_are_followed_within_their_group(
    volume: XFSVolume,
) -> None:
    node = volume.pointers([20, 21], 8, "I")
    volume.block(1, 10, BNO_MAGIC, 1, node, 2)
    volume.set_agf(1, "root_bno", 10)
    volume.set_agf(1, "level_bno", 2)
    found = blocks(map_xfs(volume.source()), Kind.BLOCK_BITMAP)
    assert {GROUP_BLOCKS + n for n in (10, 20, 21)} <= set(found)


def test_holes_of_sparse_chunks_are_left_out() -> None:
    volume = XFSVolume(sb_features_incompat=SPARSE)
    volume.chunks(0, [(FIRST, 0xFF0F)])
    volume.inode(20, DIRECTORY, EXTENTS, extent(100, 1))
    found = map_xfs(volume.source())
    chunk = [b for b in blocks(found, Kind.INODE_TABLE) if b < GROUP_BLOCKS]
    assert chunk == [CHUNK + n for n in range(8, 16)]
    assert blocks(found, Kind.DIRECTORY) == [100]


def test_a_sparse_chunk_may_reach_beyond_its_group_with_holes() -> None:
    volume = XFSVolume(1, sb_features_incompat=SPARSE)
    last = (GROUP_BLOCKS - 8) * 2
    volume.chunks(0, [(FIRST, 0), (last, 0xFFF0)])
    assert (
        blocks(map_xfs(volume.source()), Kind.INODE_TABLE)[-1]
        == GROUP_BLOCKS - 1
    )
    volume.chunks(0, [(FIRST, 0), (last, 0xFFE0)])
    refused(volume, "an inode chunk .* outside its allocation group")


def test_realtime_devices_are_named() -> None:
    notes = map_xfs(XFSVolume(sb_rblocks=5).source()).notes
    assert any("realtime" in note for note in notes)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("length", 1, "AGF of group 1"),
        ("flfirst", 200, "AGF of group 1"),
        ("fllast", 0xFFFFFFFF, "AGF of group 1"),
        ("flcount", 500, "AGF of group 1"),
        ("root_bno", GROUP_BLOCKS, "root of the bnobt .* outside"),
        ("root_cnt", 0xFFFFFFFF, "root of the cntbt .* outside"),
        ("level_bno", 0, "bnobt has an impossible number of levels"),
        ("level_bno", 10, "bnobt has an impossible number of levels"),
        ("level_bno", 0xFFFFFFFF, "bnobt has an impossible number"),
        ("level_cnt", 2, "not the cntbt block of level 1"),
    ],
)
def test_wrong_fields_of_an_agf_are_refused(
    volume: XFSVolume, field: str, value: int, words: str
) -> None:
    volume.set_agf(1, field, value)
    refused(volume, words)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seqno", 0, "AGI of group 1"),
        ("length", 0, "AGI of group 1"),
        ("root_ino", 0, "not the inobt block"),
        ("level_ino", 11, "inobt has an impossible number of levels"),
    ],
)
def test_wrong_fields_of_an_agi_are_refused(
    volume: XFSVolume, field: str, value: int, words: str
) -> None:
    volume.set_agi(1, field, value)
    refused(volume, words)


@pytest.mark.parametrize(
    ("bit", "field", "tree", "kind"),
    [
        (0x1, "fino", "finobt", Kind.INODE_BITMAP),
        (0x2, "rmap", "rmapbt", Kind.BLOCK_BITMAP),
        (0x4, "refc", "refcountbt", Kind.BLOCK_BITMAP),
        (0x8, "", "", None),
    ],
)
def test_optional_trees_are_followed_where_features_say_so(
    bit: int, field: str, tree: str, kind: MetadataClass | None
) -> None:
    volume = XFSVolume(sb_features_ro_compat=bit)
    if kind is not None:
        refused(volume, f"{tree} has an impossible number of levels")
        put = volume.set_agi if field == "fino" else volume.set_agf
        for group in range(2):
            put(group, f"root_{field}", 70)
            put(group, f"level_{field}", 1)
    found = map_xfs(volume.source())
    assert kind is None or 70 in blocks(found, kind)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (512 + 60, "the AGF"),
        (1024 + 60, "the AGI"),
        (1536 + 500, "the AGFL"),
        (INO * BLOCK + 1000, "a block of the inobt"),
        (CHUNK * BLOCK + 5 * INODE + 400, "an inode"),
    ],
)
def test_wrong_checksums_are_refused(place: int, what: str) -> None:
    volume = XFSVolume()
    volume.inode(5, REGULAR, EXTENTS, extent(100, 1))
    data = volume.build()
    map_xfs(MemorySource(data))
    data[place] ^= 1
    with pytest.raises(CorruptImageError, match=f"checksum of {what}"):
        map_xfs(MemorySource(data))


@pytest.mark.parametrize("place", [512 + 64, INO * BLOCK + 32])
def test_structures_of_another_file_system_are_refused(place: int) -> None:
    volume = XFSVolume()
    volume.data[place] ^= 1
    refused(volume, "is not one|belongs elsewhere")


def test_a_block_that_belongs_to_another_place_is_refused() -> None:
    volume = XFSVolume()
    struct.pack_into(">Q", volume.data, INO * BLOCK + 16, 99)
    refused(volume, "inobt block 4 belongs elsewhere")


@pytest.mark.parametrize(
    "records",
    [
        [(FIRST, 0), (FIRST, 0)],
        [(FIRST + 64, 0), (FIRST, 0)],
        [(FIRST, 0), (FIRST + 63, 0)],
    ],
)
def test_chunks_out_of_order_are_refused(
    volume: XFSVolume, records: list[tuple[int, int]]
) -> None:
    volume.chunks(1, records)
    refused(volume, "inode chunks of a group are not in order")


@pytest.mark.parametrize("first", [GROUP_BLOCKS * 2 - 63, 0xFFFFFFC0])
def test_chunks_outside_their_group_are_refused(
    volume: XFSVolume, first: int
) -> None:
    volume.chunks(1, [(first, 0)])
    refused(volume, "an inode chunk .* outside its allocation group")


def test_a_cycle_in_a_tree_is_refused(volume: XFSVolume) -> None:
    volume.block(0, 10, INO_MAGIC, 1, volume.pointers([INO, INO], 4, "I"), 2)
    volume.set_agi(0, "root_ino", 10)
    volume.set_agi(0, "level_ino", 2)
    refused(volume, "block 4 is used by two B.trees")


def test_a_node_without_children_is_refused(volume: XFSVolume) -> None:
    volume.block(0, 10, INO_MAGIC, 1, b"", 0)
    volume.set_agi(0, "root_ino", 10)
    volume.set_agi(0, "level_ino", 2)
    refused(volume, "a node of the inobt is empty")


def test_more_records_than_fit_are_refused(volume: XFSVolume) -> None:
    volume.block(0, INO, INO_MAGIC, 0, b"", 64)
    refused(volume, "not the inobt block")


@pytest.mark.parametrize(
    ("fork", "words"),
    [
        (extent(GROUP_BLOCKS - 1, 2), "outside its allocation group"),
        (extent(2 << GROUP_LOG, 1), "outside its allocation group"),
        (extent((1 << 52) - 1, 1), "outside its allocation group"),
        (extent(100, 0), "outside its allocation group"),
    ],
)
def test_extents_outside_a_group_are_refused(
    volume: XFSVolume, fork: bytes, words: str
) -> None:
    volume.inode(0, DIRECTORY, EXTENTS, fork)
    refused(volume, words)


@pytest.mark.parametrize("count", [30, 0xFFFFFFFF])
def test_more_extents_than_fit_are_refused(
    volume: XFSVolume, count: int
) -> None:
    volume.inode(0, DIRECTORY, EXTENTS, b"", extents=count)
    refused(volume, f"inode {FIRST} has a fork of an impossible form")


def test_counts_beyond_63_bits_are_refused() -> None:
    volume = XFSVolume()
    volume.inode(0, DIRECTORY, EXTENTS, extents=1 << 63, flags2=LARGE_COUNTS)
    refused(volume, "has a fork of an impossible form")


@pytest.mark.parametrize("form", [4, 5, 255])
def test_unknown_fork_formats_are_refused(
    volume: XFSVolume, form: int
) -> None:
    volume.inode(0, REGULAR, form)
    refused(volume, "has a fork of an impossible form")


def test_forks_that_do_not_fit_are_refused(volume: XFSVolume) -> None:
    number = volume.inode(0, REGULAR, LOCAL)
    volume.data[CHUNK * BLOCK + 82] = 255
    refused(volume, f"inode {number} has forks that do not fit")


def test_a_fork_too_small_for_a_root_is_refused(volume: XFSVolume) -> None:
    volume.inode(0, REGULAR, BTREE, attributes=(1, LOCAL, b""))
    refused(volume, "no room for the root")


@pytest.mark.parametrize(("level", "count"), [(0, 1), (1, 0), (10, 1)])
def test_impossible_roots_are_refused(
    volume: XFSVolume, level: int, count: int
) -> None:
    fork = root(level, [90] * count, volume.fork_bytes)
    volume.inode(0, REGULAR, BTREE, fork)
    refused(volume, "root of an extent tree is not one|impossible number")


def test_an_inode_in_use_must_be_one(volume: XFSVolume) -> None:
    number = volume.inode(7, DEVICE << 12, DEVICE)
    volume.data[CHUNK * BLOCK + 7 * INODE] = 0
    refused(volume, f"inode {number} is not an inode")
