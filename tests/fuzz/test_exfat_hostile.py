"""Hostile exFAT volumes: refused by a FormatError, or mapped within bounds."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exfat_volume import ExFATVolume
from vmsec.errors import FormatError
from vmsec.ondisk.exfat import map_exfat
from vmsec.ondisk.source import MemorySource

MAX_CPU_SECONDS = 3
Patch = tuple[int, bytes]


def filled() -> ExFATVolume:
    volume = ExFATVolume.blank()
    outer = volume.mkdir("outer", count=3)
    inner = volume.mkdir("inner", outer, count=4, contiguous=True)
    for number in range(10):
        volume.mkdir(f"folder {number}", inner)
    volume.build()
    return volume


VOLUME = filled()
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
DIRECTORIES = [
    VOLUME.offset(cluster)
    for folder in VOLUME.folders
    for cluster in folder.clusters
]
PLACES = st.one_of(
    st.integers(64, 112),
    st.integers(VOLUME.fat, VOLUME.fat + 4 * 258),
    st.builds(int.__add__, st.sampled_from(DIRECTORIES), st.integers(0, 300)),
)


def map_within_bounds(data: bytes | bytearray) -> None:
    source = MemorySource(data)
    started = time.process_time()
    try:
        found = map_exfat(source)
    except FormatError:
        return
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
    end = 0
    for extent in found.extents:
        assert end <= extent.offset < extent.end <= source.size_bytes
        end = extent.end


@settings(max_examples=500, deadline=None)
@given(patches=st.lists(st.tuples(PLACES, NUMBERS), min_size=1, max_size=6))
def test_mutated_structures_are_refused_or_harmless(
    patches: list[Patch],
) -> None:
    volume = ExFATVolume(bytearray(VOLUME.data))
    for place, data in patches:
        volume.data[place : place + len(data)] = data
    # With a good checksum, so that the mutation reaches the parser.
    volume.sign()
    map_within_bounds(volume.data)


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(512, len(VOLUME.data)),
    place=st.integers(0, 2000),
    data=NUMBERS,
)
def test_random_damage_and_truncation_are_refused_or_harmless(
    size: int, place: int, data: bytes
) -> None:
    content = bytearray(VOLUME.data)
    content[place : place + len(data)] = data
    map_within_bounds(content[:size])
