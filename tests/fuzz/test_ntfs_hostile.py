"""Hostile NTFS volumes: refused by a FormatError, or mapped within bounds.

Real volumes are mutated where it hurts: in the boot sector, and inside FILE
records without breaking their fixups, so that the bytes reach the parser.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import ntfs_volume
from tests.support.ntfs_records import (
    DATA,
    INDEX,
    LIST,
    Runs,
    Volume,
    away,
    extension_of,
    file_name,
    record,
    resident,
    standard,
)
from tests.support.ntfs_volume import fill, make_ntfs, mounted
from tests.support.tools import require_root, require_tool
from vmsec.errors import CorruptImageError, FormatError
from vmsec.ondisk.ntfs import map_ntfs
from vmsec.ondisk.ntfs.runlist import decode_runs
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

RECORD = 1024
MAX_CPU_SECONDS = 3
Patch = tuple[int, bytes]


def map_within_bounds(source: BlockSource) -> bool:
    """Map a hostile volume; whether it was accepted."""
    started = time.process_time()
    try:
        volume = map_ntfs(source)
    except FormatError:
        return False
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
    end = 0
    for extent in volume.extents:
        assert end <= extent.offset < extent.end <= source.size_bytes
        end = extent.end
    return True


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small real volume with something in every structure."""
    require_root()
    require_tool(*ntfs_volume.TOOLS)
    directory = tmp_path_factory.mktemp("ntfs")
    path = make_ntfs(directory / "volume.img", size_mib=12)
    with mounted(path, directory / "mount") as root:
        fill(root, files=40, directories=12)
    content = path.read_bytes()
    assert map_within_bounds(MemorySource(content))
    return content


NUMBERS = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from(
        [
            value.to_bytes(size, "little")
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


def inside_records(image: bytes) -> st.SearchStrategy[Patch]:
    """Patches of records in use that leave the fixup words alone."""
    start = int.from_bytes(image[48:56], "little") * 4096
    used = [
        place
        for place in range(start, start + 200 * RECORD, RECORD)
        if image[place : place + 4] == b"FILE" and image[place + 22] & 1
    ]
    assert len(used) > 60
    inside = st.integers(0, 511).filter(lambda at: at != 48 and at < 500)
    return st.tuples(
        st.builds(
            lambda place, half, at: place + half * 512 + at,
            st.sampled_from(used[:12] + used),
            st.sampled_from((0, 0, 0, 1)),
            inside,
        ),
        NUMBERS,
    )


def patched(image: bytes, patches: list[Patch]) -> bytearray:
    content = bytearray(image)
    for place, data in patches:
        content[place : place + len(data)] = data
    return content


SETTINGS = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)


@SETTINGS
@given(data=st.data())
def test_a_mutated_boot_sector_is_refused_or_harmless(
    image: bytes, data: st.DataObject
) -> None:
    patches = data.draw(
        st.lists(st.tuples(st.integers(11, 80), NUMBERS), min_size=1)
    )
    map_within_bounds(MemorySource(patched(image, patches)))


@SETTINGS
@given(data=st.data())
def test_mutated_records_are_refused_or_harmless(
    image: bytes, data: st.DataObject
) -> None:
    patches = data.draw(
        st.lists(inside_records(image), min_size=1, max_size=6)
    )
    map_within_bounds(MemorySource(patched(image, patches)))


@SETTINGS
@given(data=st.data())
def test_random_damage_and_truncation_are_refused_or_harmless(
    image: bytes, data: st.DataObject
) -> None:
    anywhere = st.tuples(st.integers(0, len(image) - 1), NUMBERS)
    content = patched(image, data.draw(st.lists(anywhere, max_size=8)))
    size = data.draw(
        st.one_of(st.just(len(image)), st.integers(0, len(image)))
    )
    map_within_bounds(MemorySource(content[:size]))


@given(
    pairs=st.binary(max_size=200),
    lowest=st.integers(-(1 << 63), (1 << 63) - 1),
    highest=st.integers(-(1 << 63), (1 << 63) - 1),
    clusters=st.integers(1, 1 << 48),
)
def test_any_run_list_is_refused_or_inside_the_volume(
    pairs: bytes, lowest: int, highest: int, clusters: int
) -> None:
    attribute = away(DATA, pairs, lowest=lowest, highest=highest)
    try:
        runs = decode_runs(attribute, clusters)
    except CorruptImageError:
        return
    vcn = lowest
    for run in runs:
        assert run.vcn == vcn
        assert run.length > 0
        assert run.lcn is None or 0 <= run.lcn <= clusters - run.length
        vcn += run.length


RUNS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 4100)), st.integers(1, 4100)
    ),
    max_size=20,
)
ATTRIBUTES = st.one_of(
    st.builds(away, st.sampled_from((DATA, INDEX, LIST, 0xB0)), RUNS),
    st.builds(
        file_name, st.integers(0, 63), st.sampled_from(("$a", "$UsnJrnl", "b"))
    ),
    st.builds(standard, st.integers(0, 7)),
    st.builds(resident, st.integers(1, 0x110), st.binary(max_size=60)),
)
RECORDS = st.builds(
    lambda attributes, base: record(*attributes, base=base),
    st.lists(ATTRIBUTES, max_size=4),
    st.one_of(st.just(0), st.integers(0, 63).map(extension_of)),
)


@settings(max_examples=300, deadline=None)
@given(records=st.dictionaries(st.integers(0, 63), RECORDS, max_size=12))
def test_well_formed_records_in_any_combination_come_to_an_end(
    records: dict[int, bytes],
) -> None:
    map_within_bounds(Volume(records=records).source())


def test_many_records_that_claim_the_same_clusters_cost_little() -> None:
    runs: Runs = [(1000 + 2 * index, 1) for index in range(190)]
    full = record(away(INDEX, runs, "$I30"))
    volume = Volume(
        clusters=1 << 20,
        mft_runs=[(4, 500)],
        records=dict.fromkeys(range(30, 1900), full),
    )
    assert map_within_bounds(volume.source())
