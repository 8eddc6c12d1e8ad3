"""A survey counts every byte of a disk once, whatever goes in."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.ondisk.extent import MetadataClass
from vmsec.sealing.survey import (
    KINDS,
    MAX_RANGES,
    Range,
    Rest,
    cell_size,
    draw,
    fill,
    joined,
    touching,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 4096
DISK = 200 * BLOCK
kinds = st.sampled_from(KINDS)
hostile = st.lists(
    st.builds(
        Range,
        st.integers(0, 2 * DISK),
        st.integers(0, DISK),
        kinds,
    ),
    max_size=30,
)
"""Ranges that overlap, are empty or lie behind the end of the disk."""


@st.composite
def disjoint(draw_from: st.DrawFn) -> list[Range]:
    """Sorted, disjoint ranges with gaps."""
    borders = draw_from(st.lists(st.integers(0, DISK), unique=True))
    borders.sort()
    pairs = zip(borders[::2], borders[1::2], strict=False)
    return [Range(a, b - a, draw_from(kinds)) for a, b in pairs]


def require_cover(ranges: list[Range], offset: int, length: int) -> None:
    place = offset
    for item in ranges:
        assert item.offset == place
        assert item.length > 0
        place = item.end
    assert place == offset + length


@given(hostile, st.integers(0, DISK), st.integers(0, DISK))
def test_an_interval_is_covered_exactly_once(
    top: list[Range], offset: int, length: int
) -> None:
    covered = list(fill(sorted(top), offset, length, zeros))
    require_cover(covered, offset, length)


@given(disjoint(), disjoint(), disjoint())
def test_layers_upon_layers_cover_the_disk_exactly_once(
    top: list[Range], middle: list[Range], bottom: list[Range]
) -> None:
    def lower(offset: int, length: int) -> Iterator[Range]:
        hit = touching(bottom, offset, length)
        return fill(hit, offset, length, zeros)

    def upper(offset: int, length: int) -> Iterator[Range]:
        hit = touching(middle, offset, length)
        return fill(hit, offset, length, lower)

    require_cover(list(fill(top, 0, DISK, upper)), 0, DISK)


@given(disjoint())
def test_what_is_on_top_is_seen_whole(top: list[Range]) -> None:
    seen = list(fill(top, 0, DISK, zeros))
    assert set(top) <= set(seen)


@given(disjoint(), st.integers(0, DISK), st.integers(1, DISK))
def test_touching_finds_just_the_ranges_that_meet_an_interval(
    ranges: list[Range], offset: int, length: int
) -> None:
    found = list(touching(ranges, offset, length))
    assert found == [
        item
        for item in ranges
        if item.offset < offset + length and item.end > offset
    ]


@given(disjoint())
def test_joining_keeps_every_byte_and_its_kind(top: list[Range]) -> None:
    before = list(fill(top, 0, DISK, zeros))
    after = list(joined(before))
    require_cover(after, 0, DISK)
    for one, other in itertools.pairwise(after):
        assert one.kind != other.kind
    for item in before:
        (home,) = touching(after, item.offset, item.length)
        assert home.kind == item.kind


@given(disjoint(), st.integers(1, 64))
def test_totals_and_cells_count_every_byte_once(
    top: list[Range], max_cells: int
) -> None:
    ranges = list(fill(top, 0, DISK, zeros))
    chart = draw(ranges, DISK, max_cells)
    assert sum(total.size for total in chart.totals.values()) == DISK
    assert sum(cell.length for cell in chart.cells) == DISK
    assert len(chart.cells) <= max_cells
    sealed = sum(cell.sealed for cell in chart.cells)
    assert sealed == sum(
        total.size
        for kind, total in chart.totals.items()
        if isinstance(kind, MetadataClass)
    )
    readable = sum(cell.readable for cell in chart.cells)
    assert readable == sum(
        total.size
        for kind, total in chart.totals.items()
        if kind is Rest.READABLE
    )


@given(disjoint(), st.integers(1, 64))
def test_a_cell_shows_the_most_sensitive_kind_in_it(
    top: list[Range], max_cells: int
) -> None:
    ranges = list(fill(top, 0, DISK, zeros))
    for cell in draw(ranges, DISK, max_cells).cells:
        inside = touching(ranges, cell.offset, cell.length)
        assert cell.kind == min((r.kind for r in inside), key=KINDS.index)


@given(st.integers(1, 1 << 50), st.integers(1, 1 << 12))
def test_cells_are_powers_of_two_and_never_too_many(
    disk_bytes: int, max_cells: int
) -> None:
    size = cell_size(disk_bytes, max_cells)
    assert size >= BLOCK
    assert size.bit_count() == 1
    assert -(-disk_bytes // size) <= max_cells
    if size > BLOCK:
        assert -(-disk_bytes // (size // 2)) > max_cells


def test_one_block_of_metadata_is_seen_on_a_disk_of_a_tebibyte() -> None:
    disk = 1 << 40
    item = Range(disk // 3 // BLOCK * BLOCK, BLOCK, MetadataClass.DIRECTORY)
    chart = draw(fill([item], 0, disk, zeros), disk, 2048)
    (cell,) = [c for c in chart.cells if c.kind is MetadataClass.DIRECTORY]
    assert cell.offset <= item.offset < cell.offset + cell.length
    assert cell.sealed == BLOCK


def test_a_disk_of_countless_ranges_is_counted_but_not_kept() -> None:
    count = MAX_RANGES + 1000

    def stripes() -> Iterator[Range]:
        for number in range(count):
            kind = Rest.READABLE if number % 2 else Rest.ZERO
            yield Range(number * BLOCK, BLOCK, kind)

    chart = draw(stripes(), count * BLOCK, 2048)
    assert len(chart.ranges) == MAX_RANGES
    assert chart.omitted == 1000
    assert chart.totals[Rest.READABLE].ranges == count // 2


@pytest.mark.parametrize("kind", KINDS)
def test_totals_are_in_the_order_of_display(kind: MetadataClass) -> None:
    ranges = [Range(0, BLOCK, Rest.ZERO), Range(BLOCK, BLOCK, kind)]
    found = list(draw(ranges, 2 * BLOCK, 8).totals)
    assert found == sorted({Rest.ZERO, kind}, key=KINDS.index)
