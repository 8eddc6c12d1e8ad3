"""Hostile labels and FAT volumes: refused or read, never anything else.

Whatever the bytes, a parser ends, in one of its own errors or with extents
inside the disk that do not overlap.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.support.label import (
    FATVolume,
    Record,
    Table,
    extended_disk,
    mbr_sector,
    msdos_disk,
    short_entry,
)
from vmsec.errors import FormatError
from vmsec.ondisk.fat import is_fat, map_fat
from vmsec.ondisk.layout import (
    DiskLayout,
    fallback_ranges,
    free_ranges,
    read_layout,
    volume_extents,
)
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from collections.abc import Iterable

PLENTY = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
GPT = bytes(Table().build())
GPT_4K = bytes(Table(sectors=512, sector_bytes=4096).build())
MSDOS = bytes(extended_disk(4))
HYBRID = bytes(
    Table(mbr=mbr_sector(Record(0xEE, 1, 63), Record(0x83, 64, 64))).build()
)
SMALL = 300
FAT = bytes(
    FATVolume(
        clusters=SMALL,
        chains={2: 3, 3: 0x0FFFFFFF, 9: 10, 10: 0x0FFFFFFF},
        directories={2: short_entry(b"A", 9) * 16, 9: short_entry(b"B", 20)},
    ).build()
)
FAT16 = bytes(
    FATVolume(
        bits=16,
        clusters=5000,
        chains={9: 0xFFFF},
        directories={0: short_entry(b"A", 9)},
    ).build()
)
INTERESTING = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\0", b"\xff", b"\xff" * 4, b"\0" * 8, b"\x7f\xff"]),
    st.integers(0, (1 << 64) - 1).map(lambda n: n.to_bytes(8, "little")),
    st.integers(0, 20000).map(lambda n: n.to_bytes(4, "little")),
)


def spoiled(
    base: bytes, places: list[tuple[int, int]]
) -> st.SearchStrategy[bytearray]:
    """Overwrite one to six places; places are (offset, length)."""

    @st.composite
    def build(draw: st.DrawFn) -> bytearray:
        data = bytearray(base)
        for _ in range(draw(st.integers(1, 6))):
            start, length = draw(st.sampled_from(places))
            at = start + draw(st.integers(0, length - 1))
            value = draw(INTERESTING)[: len(data) - at]
            data[at : at + len(value)] = value
        return data

    return build()


def require_sound(
    ranges: Iterable[tuple[int, int]], size: int, *, disjoint: bool = True
) -> None:
    ordered = sorted(ranges)
    for offset, length in ordered:
        assert 0 <= offset < offset + length <= size
    if disjoint:
        for (offset, length), (following, _) in itertools.pairwise(ordered):
            assert offset + length <= following


def require_one_line(err: FormatError) -> None:
    assert str(err)
    assert "\n" not in str(err)


def require_sound_layout(layout: DiskLayout, size: int) -> None:
    tables = [(e.offset, e.length) for e in layout.extents]
    leaves = [
        (p.offset, p.length)
        for p in layout.partitions
        if p.status != "container"
    ]
    if layout.label != "none":
        require_sound([*tables, *leaves], size)
    require_sound([*free_ranges(layout), *tables], size)
    require_sound(fallback_ranges(layout), size)
    require_sound([e[:2] for e in volume_extents(layout)], size)


def read_or_refuse(data: bytes | bytearray, sector_bytes: int = 512) -> None:
    try:
        layout = read_layout(MemorySource(data, sector_bytes=sector_bytes))
    except FormatError as err:
        require_one_line(err)
        return
    require_sound_layout(layout, len(data))


@PLENTY
@given(spoiled(GPT, [(446, 66), (512, 92), (1024, 384), (len(GPT) - 512, 92)]))
def test_any_gpt_is_read_or_refused(data: bytearray) -> None:
    read_or_refuse(data)


@PLENTY
@given(spoiled(GPT_4K, [(446, 66), (512, 9), (4096, 92), (8192, 384)]))
def test_any_4kn_gpt_is_read_or_refused(data: bytearray) -> None:
    read_or_refuse(data)
    read_or_refuse(data, 4096)


FIELDS = (
    "my_lba", "alternate_lba", "first_usable", "last_usable", "entries_lba",
    "entry_count", "entry_bytes", "header_bytes",
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(0, 300), st.integers(3900, 4100), st.integers(0, (1 << 32) - 1)
)


@PLENTY
@given(
    st.dictionaries(st.sampled_from(FIELDS), NUMBERS, max_size=3),
    st.dictionaries(st.sampled_from(FIELDS), NUMBERS, max_size=3),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6),
)
def test_any_gpt_with_right_checksums_is_read_or_refused(
    primary: dict[str, int],
    backup: dict[str, int],
    partitions: list[tuple[int, int]],
) -> None:
    read_or_refuse(
        Table(primary=primary, backup=backup, partitions=partitions).build()
    )


@PLENTY
@given(spoiled(MSDOS, [(446, 66), *((n * 512 + 446, 66) for n in (64, 96))]))
def test_any_extended_chain_is_read_or_refused(data: bytearray) -> None:
    read_or_refuse(data)


RECORDS = st.builds(
    Record,
    st.sampled_from([0, 5, 0x0F, 0x83, 0xEE, 7]),
    st.integers(0, 260),
    st.integers(0, 260),
    st.sampled_from([0, 0x80, 0x80, 1]),
)
SECTORS = st.lists(RECORDS, max_size=4).map(lambda r: mbr_sector(*r))


@PLENTY
@given(SECTORS, st.dictionaries(st.integers(1, 255), SECTORS, max_size=6))
@example(mbr_sector(Record(5, 1, 255)), {1: mbr_sector(Record(5, 0, 9))})
def test_any_mbr_is_read_or_refused(
    boot: bytes, chain: dict[int, bytes]
) -> None:
    disk = msdos_disk(256, boot, chain)
    read_or_refuse(disk)
    read_or_refuse(disk, 4096)


@PLENTY
@given(spoiled(HYBRID, [(446, 64), (512, 92)]))
def test_any_hybrid_is_read_or_refused(data: bytearray) -> None:
    read_or_refuse(data)


@PLENTY
@given(st.binary(max_size=6000), st.sampled_from([512, 4096]))
def test_any_bytes_are_read_or_refused(data: bytes, sector: int) -> None:
    read_or_refuse(data, sector)


def map_or_refuse(data: bytearray) -> None:
    source = MemorySource(data)
    assume(is_fat(source))
    try:
        found = map_fat(source)
    except FormatError as err:
        require_one_line(err)
        return
    require_sound([e[:2] for e in found.extents], len(data))


DATA_AT = FATVolume(clusters=SMALL).data_sector * 512


@PLENTY
@given(
    spoiled(
        FAT, [(11, 42), (32 * 512, 64), (DATA_AT, 512), (DATA_AT + 3584, 32)]
    )
)
def test_any_fat32_is_mapped_or_refused(data: bytearray) -> None:
    map_or_refuse(data)


@PLENTY
@given(spoiled(FAT16, [(11, 30), (32 * 512, 40), (len(FAT16) // 3, 64)]))
def test_any_fat16_is_mapped_or_refused(data: bytearray) -> None:
    map_or_refuse(data)
