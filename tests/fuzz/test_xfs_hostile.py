"""Hostile XFS volumes: refused by a FormatError, or mapped within bounds.

Volumes made by hand are mutated where it hurts and get right checksums, so
that the bytes reach the parser; so are the logs. A real volume of version 4,
which has no checksums, is mutated as well.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import xfs
from tests.support.tools import require_tool
from tests.support.xfslog import (
    LOG_BLOCKS,
    LOG_START,
    SECTORS,
    LogWriter,
    buffer_item,
    inode_item,
    operation,
    transaction,
)
from tests.support.xfsvolume import (
    BLOCK,
    BTREE,
    CHUNK,
    DIRECTORY,
    EXTENTS,
    GROUP_BLOCKS,
    GROUP_BYTES,
    INO,
    INODE,
    REGULAR,
    XFSVolume,
    extent,
    root,
)
from vmsec.errors import FormatError
from vmsec.ondisk.source import MemorySource, require_inside
from vmsec.ondisk.xfs import map_xfs

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.source import BlockSource

MAX_CPU_SECONDS = 3
Patch = tuple[int, bytes]
SETTINGS = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
NUMBERS = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from(
        [
            value.to_bytes(size, "big")
            for size in (1, 2, 4, 8)
            for value in (
                0,
                1,
                (1 << 8 * size) - 1,
                1 << (8 * size - 1),
                (1 << (8 * size - 1)) - 1,
            )
        ]
    ),
)


class PatchedSource:
    """A large source with some bytes changed and perhaps its end missing."""

    sector_bytes = 512

    def __init__(self, data: bytes, patches: list[Patch], size: int) -> None:
        self._data, self._patches = data, patches
        self.size_bytes = size

    def read_at(self, offset: int, length: int) -> bytes:
        require_inside(self.size_bytes, offset, length)
        found = bytearray(self._data[offset : offset + length])
        for place, data in self._patches:
            for index, byte in enumerate(data, place - offset):
                if 0 <= index < length:
                    found[index] = byte
        return bytes(found)


def map_within_bounds(source: BlockSource) -> bool:
    """Map a hostile volume; whether it was accepted."""
    started = time.process_time()
    try:
        volume = map_xfs(source)
    except FormatError:
        return False
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
    end = 0
    for item in volume.extents:
        assert end <= item.offset < item.end <= source.size_bytes
        end = item.end
    return True


def rich_volume(*, has_crc: bool) -> XFSVolume:
    """A volume with something of everything, and an internal log."""
    volume = XFSVolume(
        has_crc=has_crc,
        sb_logstart=LOG_START,
        sb_logblocks=LOG_BLOCKS,
        sb_features_incompat=0x3,
        sb_features_ro_compat=0x2,
    )
    for group in range(2):
        volume.set_agf(group, "root_rmap", 70)
        volume.set_agf(group, "level_rmap", 1)
    volume.inode(0, DIRECTORY, EXTENTS, extent(100, 2) + extent(256, 1))
    volume.inode(1, REGULAR, BTREE, root(2, [90], volume.fork_bytes))
    volume.long_block(90, 1, volume.pointers([91, 92], 8, "Q"), 2)
    volume.inode(2, DIRECTORY, BTREE, root(1, [93, 94], volume.fork_bytes))
    volume.long_block(93, 0, extent(110, 1), 1)
    volume.long_block(94, 0, extent(112, 3), 1)
    volume.inode(
        3,
        *(REGULAR, EXTENTS, extent(120, 1)),
        attributes=(10, EXTENTS, extent(122, 1)),
        attribute_extents=1,
    )
    volume.block(
        1, 20, (b"IABT", b"IAB3"), 1, volume.pointers([INO], 4, "I"), 1
    )
    volume.set_agi(1, "root_ino", 20)
    volume.set_agi(1, "level_ino", 2)
    return volume


STRUCTURES = st.one_of(
    st.integers(0, 4 * 512 - 1),
    st.integers(GROUP_BYTES, GROUP_BYTES + 4 * 512 - 1),
    st.builds(
        lambda block, at: block * BLOCK + at,
        st.sampled_from(
            [2, 3, INO, 90, 93, GROUP_BLOCKS + INO, GROUP_BLOCKS + 20]
        ),
        st.integers(0, 120),
    ),
    st.builds(
        lambda index, at: CHUNK * BLOCK + index * INODE + at,
        st.integers(0, 3),
        st.integers(0, 250),
    ),
)


@SETTINGS
@given(
    has_crc=st.booleans(),
    patches=st.lists(st.tuples(STRUCTURES, NUMBERS), max_size=4),
)
def test_mutated_structures_with_right_checksums(
    has_crc: bool, patches: list[Patch]
) -> None:
    volume = rich_volume(has_crc=has_crc)
    for place, data in patches:
        volume.data[place : place + len(data)] = data
    accepted = map_within_bounds(volume.source())
    assert accepted or patches


@SETTINGS
@given(
    has_crc=st.booleans(),
    place=st.integers(0, SECTORS - 1),
    cycle=st.sampled_from([1, 2, 0xFFFFFFFE]),
    tail=st.integers(0, SECTORS),
    patches=st.lists(
        st.tuples(st.integers(0, 900), NUMBERS), min_size=1, max_size=4
    ),
)
def test_mutated_logs_with_right_checksums(
    has_crc: bool,
    place: int,
    cycle: int,
    tail: int,
    patches: list[Patch],
) -> None:
    volume = rich_volume(has_crc=has_crc)
    items = [
        inode_item(volume, 0, EXTENTS, extent(105, 1)),
        buffer_item(8, 2, [3, 4], bytes(256)),
    ]
    body = bytearray(b"".join(transaction(*items)))
    for at, data in patches:
        start = at % len(body)
        body[start : start + len(data)] = data
    writer = LogWriter(volume, place, cycle)
    writer.write(transaction(items[1]), tail=place)
    record = [bytes(body), *[b""] * 9]
    writer.write(record, tail=tail)
    map_within_bounds(volume.source())


@SETTINGS
@given(
    has_crc=st.booleans(),
    patches=st.lists(
        st.tuples(st.integers(0, LOG_BLOCKS * BLOCK - 1), NUMBERS),
        min_size=1,
        max_size=5,
    ),
)
def test_damaged_logs(has_crc: bool, patches: list[Patch]) -> None:
    volume = rich_volume(has_crc=has_crc)
    writer = LogWriter(volume, 20, 3)
    for _ in range(6):
        item = inode_item(volume, 0, EXTENTS, extent(105, 1))
        writer.write(transaction(item), tail=20)
    for place, data in patches:
        at = LOG_START * BLOCK + place % (44 * 512)
        volume.data[at : at + len(data)] = data
    map_within_bounds(volume.source())


@SETTINGS
@given(operations=st.lists(st.binary(max_size=120), max_size=12))
def test_any_operations_come_to_an_end(operations: list[bytes]) -> None:
    volume = rich_volume(has_crc=True)
    record = [operation(1), operation(0, bytes(16))]
    record += [operation(0, data) for data in operations]
    LogWriter(volume).write([*record, operation(2)], tail=0)
    map_within_bounds(volume.source())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real volume of version 4."""
    require_tool(*xfs.TOOLS)
    directory: pathlib.Path = tmp_path_factory.mktemp("xfs")
    tree = xfs.plain_tree(directory / "tree")
    options = ("-m", "crc=0", "-d", "agcount=2")
    path = xfs.make_image(directory / "i", *options, tree=tree, mib=32)
    content = path.read_bytes()
    assert map_within_bounds(MemorySource(content))
    return content


@SETTINGS
@given(data=st.data())
def test_a_mutated_real_volume(image: bytes, data: st.DataObject) -> None:
    volume = map_xfs(MemorySource(image))
    inside = st.sampled_from(volume.extents).flatmap(
        lambda item: st.integers(item.offset, item.end - 1)
    )
    places = st.one_of(st.integers(0, 2047), inside)
    patches = data.draw(st.lists(st.tuples(places, NUMBERS), max_size=6))
    size = data.draw(
        st.one_of(st.just(len(image)), st.integers(0, len(image)))
    )
    map_within_bounds(PatchedSource(image, patches, size))


def test_many_trees_that_claim_the_same_blocks_cost_little() -> None:
    volume = rich_volume(has_crc=True)
    fork = root(1, [95] * 20, volume.fork_bytes)
    for index in range(64):
        volume.inode(index, REGULAR, BTREE, fork)
    assert map_within_bounds(volume.source())
    for index in range(64):
        volume.inode(index, DIRECTORY, BTREE, fork)
    assert not map_within_bounds(volume.source())


def test_many_directories_that_claim_the_whole_volume_cost_little() -> None:
    volume = rich_volume(has_crc=True)
    everything = extent(0, GROUP_BLOCKS) + extent(GROUP_BLOCKS, GROUP_BLOCKS)
    for index in range(64):
        volume.inode(index, DIRECTORY, EXTENTS, everything * 10)
    source = volume.source()
    tracemalloc.start()
    assert map_within_bounds(source)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
