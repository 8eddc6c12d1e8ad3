"""Zeros are left out, everything else is read."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from vmsec.sealing.reader import nonzero_runs

BLOCK = 4096


@given(st.lists(st.booleans(), min_size=1, max_size=256), st.integers(0, 7))
def test_runs_cover_all_that_is_not_zero(
    blocks: list[bool], tail: int
) -> None:
    """Whole blocks, in order; nothing but zeros is left out."""
    rng = random.Random(1)
    body = bytearray()
    for used in blocks:
        body += rng.randbytes(BLOCK) if used else bytes(BLOCK)
    if len(blocks) < 256:
        body += bytes(tail * 512)
    runs = nonzero_runs(memoryview(body))
    left, end = bytearray(body), 0
    for start, length in runs:
        assert start % BLOCK == 0
        assert start >= end
        end = start + length
        left[start:end] = bytes(length)
    assert not any(left)
    assert end <= len(body)


def test_a_long_hole_splits_a_run_and_a_short_one_does_not() -> None:
    body = bytearray(100 * BLOCK)
    for block in (0, 10, 60):
        body[block * BLOCK] = 1
    assert nonzero_runs(memoryview(body)) == [
        (0, 11 * BLOCK),
        (60 * BLOCK, BLOCK),
    ]


def test_zeros_give_no_run() -> None:
    for size in (512, BLOCK, 17 * BLOCK, 1 << 20):
        assert nonzero_runs(memoryview(bytes(size))) == []
