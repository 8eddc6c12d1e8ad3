"""Block maps: how far they are followed, and that no tree is a trap."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.extvolume import (
    BLOCK,
    DIRECTORY,
    EXTENTS,
    REGULAR,
    Volume,
    extent_header,
    extents,
    index,
)
from vmsec.errors import CorruptImageError
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.source import MemorySource

TREE, DIR = MetadataClass.EXTENT_TREE, MetadataClass.DIRECTORY
ROOM = (BLOCK - 12) // 12
INODE = 12


class CountingSource(MemorySource):
    """Remembers which blocks were read on their own."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.blocks: list[int] = []

    def read_at(self, offset: int, length: int) -> bytes:
        if length == BLOCK:
            self.blocks.append(offset // BLOCK)
        return super().read_at(offset, length)


def found(volume: Volume, kind: MetadataClass) -> list[int]:
    """Return the blocks of one class."""
    return [
        block
        for extent in map_ext(volume.source).extents
        if extent.kind is kind
        for block in range(extent.offset // BLOCK, extent.end // BLOCK)
    ]


def one_inode(mode: int, words: Any, flags: int = EXTENTS) -> Volume:
    volume = Volume()
    volume.put_inode(INODE, mode, words, flags=flags)
    return volume


def test_extents_of_a_directory_are_mapped_and_of_a_file_not() -> None:
    words = extents((40, 3), (50, 1))
    assert found(one_inode(DIRECTORY, words), DIR) == [40, 41, 42, 50]
    volume = one_inode(REGULAR, words)
    kinds = {extent.kind for extent in map_ext(volume.source).extents}
    assert not kinds & {DIR, TREE, MetadataClass.SPECIAL_INODE}


def test_unwritten_extent_counts_with_its_real_length() -> None:
    words = extents((40, 32768 + 2))
    assert found(one_inode(DIRECTORY, words), DIR) == [40, 41]


def test_tree_blocks_of_a_file_are_mapped_without_reading_the_lowest() -> None:
    volume = one_inode(REGULAR, index(2, 30, 31))
    volume.put_words(30, [*extent_header(2, 1, ROOM), 0, 60, 0, 1, 61, 0])
    volume.put_words(31, [*extent_header(1, 1, ROOM), 9, 62, 0])
    assert found(volume, TREE) == [30, 31, 60, 61, 62]
    source = CountingSource(bytes(volume.data))
    map_ext(source)
    read = [block for block in source.blocks if block >= 13]
    assert sorted(read) == [30, 31]


def test_tree_of_a_directory_is_followed_to_the_end() -> None:
    volume = one_inode(DIRECTORY, index(1, 30, 31))
    volume.put_words(30, [*extent_header(1, 0, ROOM), 0, 2, 70])
    volume.put_words(31, [*extent_header(1, 0, ROOM), 2, 1, 90])
    assert found(volume, TREE) == [30, 31]
    assert found(volume, DIR) == [70, 71, 90]


def test_tree_that_leads_back_to_itself_is_refused() -> None:
    """The deepest tree is five levels; a cycle cannot keep its depths."""
    volume = one_inode(REGULAR, index(2, 30))
    volume.put_words(30, [*extent_header(1, 1, ROOM), 0, 30, 0])
    assert found(volume, TREE) == [30]  # its child is not read
    volume.put_inode(INODE, DIRECTORY, index(2, 30), flags=EXTENTS)
    with pytest.raises(CorruptImageError, match="two block maps"):
        map_ext(volume.source)


def test_block_in_two_trees_is_refused() -> None:
    volume = one_inode(DIRECTORY, index(1, 30))
    volume.put_words(30, [*extent_header(1, 0, ROOM), 0, 2, 70])
    volume.put_inode(INODE + 1, DIRECTORY, index(1, 30), flags=EXTENTS)
    with pytest.raises(CorruptImageError, match="two block maps"):
        map_ext(volume.source)


@pytest.mark.parametrize(
    "words",
    [
        [0xF30B | 1 << 16, 4, 0, 0, 1, 40],
        [0xF30A | 5 << 16, 4, 0, 0, 1, 40],
        [0xF30A | 1 << 16, 4 | 6 << 16, 0, 0, 40, 0],
        extents((257, 1)),
        extents((256, 2)),
        extents((0, 1)),
        extents((1 << 47, 1)),
        index(1, 257),
        index(1, 0),
    ],
)
@pytest.mark.parametrize("mode", [DIRECTORY])
def test_root_that_is_none_or_points_outside_is_refused(
    mode: int, words: list[int]
) -> None:
    with pytest.raises(CorruptImageError):
        map_ext(one_inode(mode, words).source)


@pytest.mark.parametrize(
    "node",
    [
        [0],
        extent_header(1, 1, ROOM),
        extent_header(ROOM + 1, 0, ROOM + 1),
        extent_header(3, 0, 2),
        [*extent_header(1, 0, ROOM), 0, 1, 257],
    ],
)
def test_tree_block_that_is_none_is_refused(node: list[int]) -> None:
    volume = one_inode(DIRECTORY, index(1, 30))
    volume.put_words(30, node)
    with pytest.raises(CorruptImageError):
        map_ext(volume.source)


def test_indirect_blocks_of_a_file_are_mapped_and_its_data_is_not() -> None:
    words = [*range(100, 112), 30, 31, 32]
    volume = one_inode(REGULAR, words, flags=0)
    volume.put_words(31, [40, 0, 41])
    volume.put_words(32, [50])
    volume.put_words(50, [0, 60])
    assert found(volume, TREE) == [30, 31, 32, 40, 41, 50, 60]
    source = CountingSource(bytes(volume.data))
    map_ext(source)
    read = [block for block in source.blocks if block >= 13]
    assert sorted(read) == [31, 32, 50]


def test_indirect_blocks_of_a_directory_are_followed_to_the_end() -> None:
    words = [100, 0, 102, *[0] * 9, 30, 31, 32]
    volume = one_inode(DIRECTORY, words, flags=0)
    volume.put_words(30, [110])
    volume.put_words(31, [40])
    volume.put_words(40, [111, 0, 112])
    volume.put_words(32, [50])
    volume.put_words(50, [60])
    volume.put_words(60, [113])
    assert found(volume, TREE) == [30, 31, 32, 40, 50, 60]
    assert found(volume, DIR) == [100, 102, 110, 111, 112, 113]


@pytest.mark.parametrize(
    ("column", "blocks"),
    [
        (13, {30: [30]}),
        (14, {30: [30]}),
        (14, {30: [31], 31: [30]}),
        (14, {30: [31, 31]}),
        (12, {30: [0xFFFFFFFF]}),
        (13, {30: [257]}),
    ],
)
def test_indirect_block_in_a_circle_or_outside_is_refused(
    column: int, blocks: dict[int, list[int]]
) -> None:
    words = [0] * 15
    words[column] = 30
    volume = one_inode(DIRECTORY, words, flags=0)
    for block, content in blocks.items():
        volume.put_words(block, content)
    with pytest.raises(CorruptImageError):
        map_ext(volume.source)
