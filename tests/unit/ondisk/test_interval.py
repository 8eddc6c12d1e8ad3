"""Claims that collide are named; gaps are what is left."""

from __future__ import annotations

import pytest

from vmsec.errors import OverlapError
from vmsec.ondisk.interval import Claim, gaps, require_disjoint


def test_claims_that_touch_are_disjoint() -> None:
    require_disjoint([Claim(10, 5, "b"), Claim(0, 10, "a")])
    require_disjoint([Claim(0, 10, "a"), Claim(3, 0, "nothing")])
    require_disjoint([])


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 10), (9, 1)), ((5, 1), (5, 1)), ((0, 99), (3, 4))],
)
def test_claims_that_share_a_byte_are_both_named(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    with pytest.raises(OverlapError, match=r"one and two overlap at byte"):
        require_disjoint([Claim(*second, "two"), Claim(*first, "one")])


def test_a_short_claim_does_not_hide_a_long_one() -> None:
    with pytest.raises(OverlapError):
        require_disjoint(
            [Claim(0, 100, "long"), Claim(10, 5, "short"), Claim(50, 9, "x")]
        )


def test_gaps_are_before_between_and_behind() -> None:
    assert gaps([(20, 5), (10, 5), (12, 1)], 30) == ((0, 10), (15, 5), (25, 5))
    assert gaps([], 7) == ((0, 7),)
    assert gaps([(0, 9)], 7) == ()
    assert gaps([], 0) == ()
