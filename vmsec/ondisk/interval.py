"""Runs of bytes on a disk: which collide, and what lies between them.

Units:
    Offsets and lengths are bytes from the start of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import OverlapError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Claim(NamedTuple):
    """A run of bytes and the structure that claims it, for the operator."""

    offset: int
    length: int
    owner: str

    @property
    def end(self) -> int:
        """First byte behind the run."""
        return self.offset + self.length


def require_disjoint(claims: Iterable[Claim]) -> None:
    """Check that no two claims share a byte; empty ones share none.

    Raises:
        OverlapError: Two do; both are named.
    """
    last: Claim | None = None
    for claim in sorted(c for c in claims if c.length):
        if last is not None and claim.offset < last.end:
            raise OverlapError(
                f"{last.owner} and {claim.owner} overlap at byte "
                f"{claim.offset}; repair the partition table"
            )
        last = claim


def gaps(
    claims: Iterable[tuple[int, int]], size: int
) -> tuple[tuple[int, int], ...]:
    """Return what no claim covers of the first ``size`` bytes.

    Args:
        claims: Offsets and lengths, in any order; they may overlap.
        size: Where the disk ends.

    Returns:
        Offsets and lengths, in order, none empty.
    """
    found: list[tuple[int, int]] = []
    free = 0
    for offset, length in sorted(claims):
        if offset > free:
            found.append((free, min(offset, size) - free))
        free = max(free, offset + length)
    if free < size:
        found.append((free, size - free))
    return tuple(found)
