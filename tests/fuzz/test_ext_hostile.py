"""Hostile ext volumes: refused by a FormatError, or mapped within bounds.

Real volumes are mutated where the parser reads; small ones are built around
random trees and random journals.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import ext
from tests.support.extvolume import (
    BLOCK,
    DIRECTORY,
    EA_INODE,
    EXTENTS,
    INLINE,
    REGULAR,
    SYMLINK,
    Volume,
    extent_header,
)
from tests.support.tools import require_tool
from vmsec.errors import FormatError
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    import pathlib

MAX_CPU_SECONDS = 3
MAX_READS = 4
"""The volume may be read this many times over, journal and all."""

SLACK_BYTES = 64 * 1024
LOG_MAGIC = 0xC03B3998
RECOVER = 0x4
IMAGES = {
    "ext2": ("-t", "ext2", "-b", "1024", "-I", "128"),
    "ext3": ("-t", "ext3", "-b", "1024"),
    "ext4-plain": ("-t", "ext4", "-O", "^metadata_csum", "-b", "1024"),
    "ext4-small-groups": (
        *("-t", "ext4", "-b", "1024", "-g", "256"),
        *("-O", "meta_bg,^resize_inode,^metadata_csum,^flex_bg"),
    ),
    "ext4-bigalloc": (
        *("-t", "ext4", "-b", "1024", "-C", "2048"),
        *("-O", "bigalloc,^metadata_csum"),
    ),
    "ext4-checksums": ("-t", "ext4", "-b", "1024"),
}
WORDS = st.one_of(
    st.integers(0, 300),
    st.sampled_from([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xF30A, 0x1F30A]),
    st.integers(0, 2**32 - 1),
)
FUZZ = settings(
    deadline=None,
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class MeteredSource(MemorySource):
    """Counts the bytes that are read."""

    read_bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return super().read_at(offset, length)


def map_within_bounds(data: bytes | bytearray) -> bool:
    """Map a hostile volume; whether it was accepted."""
    source = MeteredSource(data)
    started = time.process_time()
    try:
        volume = map_ext(source)
    except FormatError:
        return False
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
        assert source.read_bytes <= MAX_READS * len(data) + SLACK_BYTES
    end = 0
    for extent in volume.extents:
        assert end <= extent.offset < extent.end <= len(data)
        end = extent.end
    return True


@pytest.fixture(scope="module", params=IMAGES)
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    require_tool("mke2fs")
    place: pathlib.Path = tmp_path_factory.mktemp("hostile")
    tree = ext.make_tree(place / "tree", entries=60)
    (tree / f"{ext.NAME}-body").unlink()
    options = IMAGES[request.param]
    path = ext.make_image(place / "i", *options, tree=tree, mib=8)
    data = path.read_bytes()
    assert map_within_bounds(data)
    return data


@st.composite
def patches(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    """Return places (which extent, offset in it) and words to put there."""
    one = st.tuples(st.floats(0, 0.999), st.integers(0, 4095), WORDS)
    return draw(st.lists(one, min_size=1, max_size=6))


@FUZZ
@given(changes=patches())
def test_mutated_metadata_is_refused_or_mapped(
    image: bytes, changes: list[tuple[float, int, int]]
) -> None:
    extents = map_ext(MemorySource(image)).extents
    data = bytearray(image)
    for which, offset, word in changes:
        extent = extents[int(which * len(extents))]
        at = extent.offset + offset % extent.length // 4 * 4
        struct.pack_into("<I", data, min(at, len(data) - 4), word)
    map_within_bounds(data)


@FUZZ
@given(offset=st.integers(0, 1020), word=WORDS, more=WORDS)
def test_mutated_superblock_is_refused_or_mapped(
    image: bytes, offset: int, word: int, more: int
) -> None:
    data = bytearray(image)
    struct.pack_into("<I", data, 1024 + offset, word)
    struct.pack_into("<I", data, 1024 + more % 0x70, word ^ more)
    struct.pack_into("<H", data, 1024 + 0x38, 0xEF53)
    map_within_bounds(data)


@FUZZ
@given(cut=st.floats(0, 1))
def test_cut_off_volume_is_refused(image: bytes, cut: float) -> None:
    assert not map_within_bounds(image[: int(cut * (len(image) - 1))])


@st.composite
def inodes(draw: st.DrawFn) -> list[tuple[int, int, list[int]]]:
    """Return mode, flags and i_block of inodes whose maps go anywhere."""
    mode = st.sampled_from([REGULAR, DIRECTORY, SYMLINK, 0, 0xFFFF])
    flags = st.sampled_from([0, EXTENTS, EXTENTS | EA_INODE, INLINE])
    root = st.builds(extent_header, st.integers(0, 5), st.integers(0, 6))
    words = st.one_of(
        st.lists(st.integers(0, 260), min_size=15, max_size=15),
        st.builds(
            list.__add__, root, st.lists(WORDS, min_size=12, max_size=12)
        ),
        st.builds(
            lambda head, child: [*head, *[0, child, 0] * 4],
            root,
            st.integers(20, 60),
        ),
    )
    return draw(st.lists(st.tuples(mode, flags, words), max_size=20))


@settings(deadline=None, max_examples=1000)
@given(
    some=inodes(),
    nodes=st.lists(
        st.tuples(
            st.integers(0, 90), st.integers(0, 5), st.lists(WORDS, max_size=90)
        ),
        max_size=30,
    ),
)
def test_random_trees_are_refused_or_mapped(
    some: list[tuple[int, int, list[int]]],
    nodes: list[tuple[int, int, list[int]]],
) -> None:
    volume = Volume()
    for number, (mode, flags, words) in enumerate(some, 1):
        volume.put_inode(number, mode, words, flags=flags, size=100)
    for number, (entries, depth, words) in enumerate(nodes):
        head = extent_header(entries, depth, 84)
        volume.put_words(20 + number, [*head, *words])
    map_within_bounds(volume.data)


def log_block(kind: int, body: list[int]) -> bytes:
    header = struct.pack(">III", LOG_MAGIC, kind, 1)
    return header + struct.pack(f">{len(body)}I", *body)


@settings(deadline=None, max_examples=1000)
@given(
    head=st.lists(WORDS, min_size=12, max_size=12),
    broken=st.booleans(),
    start=st.integers(0, 14),
    incompat=st.integers(0, 63),
    blocks=st.lists(
        st.builds(
            log_block,
            st.sampled_from([1, 1, 1, 2, 5, 9]),
            st.lists(WORDS, max_size=200),
        ),
        max_size=11,
    ),
)
def test_random_journals_are_refused_or_replayed(
    head: list[int],
    broken: bool,
    start: int,
    incompat: int,
    blocks: list[bytes],
) -> None:
    volume = Volume(
        s_feature_compat=0x4, s_feature_incompat=RECOVER, s_journal_inum=8
    )
    volume.put_inode(8, REGULAR, [*range(100, 112)])
    volume.put_inode(2, DIRECTORY, [50])
    good = [LOG_MAGIC, 4, 0, BLOCK, 12, 1, 1, start, 0, 0, incompat, 0]
    content = struct.pack(">12I", *(head if broken else good))
    for number, block in enumerate([content, *blocks]):
        at = (100 + number) * BLOCK
        volume.data[at : at + len(block)] = block[:BLOCK]
    map_within_bounds(volume.data)
