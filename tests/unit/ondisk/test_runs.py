"""Runs become the same extents as the slow builder makes of them."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from vmsec.errors import CorruptImageError, LimitExceededError
from vmsec.ondisk import runs as module
from vmsec.ondisk.ext.checksum import (
    CRC16_START,
    CRC16_TABLE,
    CRC32C_START,
    CRC32C_TABLE,
    checksum_rows,
    crc32c,
)
from vmsec.ondisk.extent import Extent, ExtentBuilder, MetadataClass
from vmsec.ondisk.runs import RunCollector

KINDS = list(MetadataClass)[:4]


def collector(count: int = 1000, first: int = 0) -> RunCollector:
    return RunCollector(
        block_bytes=512,
        first_block=first,
        block_count=count,
        checker="fsck",
    )


@pytest.mark.parametrize("seed", range(40))
def test_bytes_covered_are_those_of_the_builder(seed: int) -> None:
    choice = random.Random(seed)
    fast, slow = collector(), ExtentBuilder(1000 * 512)
    for _ in range(choice.randrange(60)):
        start = choice.randrange(1000)
        count = choice.randrange(min(30, 1001 - start))
        kind = choice.choice(KINDS)
        fast.add(start, count, kind)
        slow.add(start * 512, count * 512, kind)
    merged = fast.merged()
    assert covered(merged) == covered(slow.merged())
    for one, two in pairwise(merged):
        assert one.end <= two.offset
        assert one.end < two.offset or one.kind is not two.kind


def covered(extents: tuple[Extent, ...]) -> set[int]:
    return {
        sector
        for extent in extents
        for sector in range(extent.offset // 512, extent.end // 512)
    }


def test_equal_kinds_that_touch_are_joined_and_others_kept_apart() -> None:
    runs = collector()
    runs.add(np.array([4, 2, 3, 8]), 1, KINDS[0])
    runs.add(5, 3, KINDS[1])
    assert runs.merged() == (
        Extent(1024, 1536, KINDS[0]),
        Extent(2560, 1536, KINDS[1]),
        Extent(4096, 512, KINDS[0]),
    )


def test_nothing_gives_nothing() -> None:
    assert collector().merged() == ()
    assert not len(collector().blocks(KINDS[0], 10))
    runs = collector()
    runs.add(np.zeros(0, dtype=np.int64), 1, KINDS[0])
    runs.add(7, 0, KINDS[0])
    assert runs.merged() == ()
    assert not len(runs.blocks(KINDS[0], 10))


@pytest.mark.parametrize(
    ("start", "count"),
    [(1000, 1), (999, 2), (0, 1001), (-1, 1), (4, 1), (2**47, 1), (9, -1)],
)
def test_run_outside_the_volume_is_refused(start: int, count: int) -> None:
    with pytest.raises(CorruptImageError, match="fsck in the guest"):
        collector(first=5).add(start, count, KINDS[0])


def test_blocks_come_in_the_order_they_were_added() -> None:
    runs = collector()
    runs.add(np.array([9, 3]), np.array([2, 1]), KINDS[0])
    runs.add(50, 1, KINDS[1])
    runs.add(7, 2, KINDS[0])
    assert runs.blocks(KINDS[0], 5).tolist() == [9, 10, 3, 7, 8]
    with pytest.raises(LimitExceededError):
        runs.blocks(KINDS[0], 4)


def test_number_of_runs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNS", 3)
    runs = collector()
    runs.add(np.array([9, 3, 5]), 1, KINDS[0])
    with pytest.raises(LimitExceededError):
        runs.add(1, 1, KINDS[0])


def test_checksums_match_the_published_check_values() -> None:
    # CRC-32/ISCSI inverts its result; CRC-16/MODBUS starts as ext4 does.
    digits = b"123456789"
    row = np.frombuffer(digits, dtype=np.uint8).reshape(1, -1)
    assert crc32c(CRC32C_START, digits) ^ 0xFFFFFFFF == 0xE3069283
    rows = checksum_rows(CRC32C_TABLE, CRC32C_START, np.vstack([row, row]))
    assert rows.tolist() == [0xE3069283 ^ 0xFFFFFFFF] * 2
    assert checksum_rows(CRC16_TABLE, CRC16_START, row).tolist() == [0x4B37]
