"""Hostile Btrfs volumes: refused by a FormatError, or mapped within bounds.

Mutated structures get good checksums, so that the mutation reaches the
parser.
"""

from __future__ import annotations

import hashlib
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.btrfs_volume import (
    MIB,
    NODE,
    SUPERBLOCK,
    SYSTEM_AT,
    BtrfsVolume,
    metadata_chunk,
    system_chunk,
)
from vmsec.errors import FormatError
from vmsec.ondisk.btrfs import map_btrfs
from vmsec.ondisk.source import MemorySource

MAX_CPU_SECONDS = 3
Patch = tuple[int, bytes]
VOLUME = BtrfsVolume(
    size=7 * MIB, levels=2, chunks=[system_chunk(), metadata_chunk()]
)
DISK = bytes(VOLUME.build())
NUMBERS = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(
        [
            value.to_bytes(size, "little")
            for size in (1, 2, 4, 8)
            for value in (0, 1, 2, (1 << 8 * size) - 1, 1 << (8 * size - 1))
        ]
    ),
)
IN_SUPERBLOCK = st.one_of(
    st.integers(SUPERBLOCK + 32, SUPERBLOCK + 220),
    st.integers(SUPERBLOCK + 811, SUPERBLOCK + 811 + 97),
)
IN_NODES = st.builds(
    lambda node, at: SYSTEM_AT + node * NODE + at,
    st.integers(0, 2),
    st.one_of(st.integers(32, 180), st.integers(NODE - 250, NODE - 9)),
)


def sign(data: bytearray, offset: int, length: int) -> None:
    digest = hashlib.sha256(data[offset + 32 : offset + length]).digest()
    data[offset : offset + 32] = digest


def map_within_bounds(data: bytes | bytearray) -> None:
    source = MemorySource(data)
    started = time.process_time()
    try:
        found = map_btrfs(source)
    except FormatError:
        return
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
    end = 0
    for extent in found.extents:
        assert end <= extent.offset < extent.end <= source.size_bytes
        end = extent.end


@settings(max_examples=500, deadline=None)
@given(
    patches=st.lists(
        st.tuples(st.one_of(IN_SUPERBLOCK, IN_NODES), NUMBERS),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_structures_are_refused_or_harmless(
    patches: list[Patch],
) -> None:
    data = bytearray(DISK)
    for place, value in patches:
        data[place : place + len(value)] = value
    sign(data, SUPERBLOCK, 4096)
    for node in range(3):
        sign(data, SYSTEM_AT + node * NODE, NODE)
    map_within_bounds(data)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(0, len(DISK)))
def test_truncated_volumes_are_refused_or_harmless(size: int) -> None:
    map_within_bounds(DISK[:size])


def test_the_volume_that_is_mutated_is_sound() -> None:
    assert len(map_btrfs(MemorySource(DISK)).extents) == 5
