"""Collects runs of blocks by the million and turns them into extents.

:class:`~vmsec.ondisk.extent.ExtentBuilder` takes one extent at a time; here
whole arrays come in, so that the cost of a large volume is numpy's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.extent import Extent, MetadataClass
from vmsec.ondisk.limits import require_limit

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]
    Uint32Array = npt.NDArray[np.uint32]

MAX_RUNS: Final = 1 << 23
"""Runs of metadata blocks on one volume: 8 million directories, each in
fragments, is beyond the field; bounds memory to some 200 MiB here."""

_KINDS: Final = tuple(MetadataClass)
_CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}


class RunCollector:
    """Runs of blocks of one volume, each checked against its size.

    Args:
        block_bytes: Size of a block; 1 where places are given in bytes.
        first_block: First block that may be pointed at.
        block_count: Blocks of the volume.
        checker: The tool that repairs such a volume, for the operator.
    """

    def __init__(
        self,
        *,
        block_bytes: int,
        first_block: int,
        block_count: int,
        checker: str,
    ) -> None:
        self._block_bytes, self._checker = block_bytes, checker
        self._first, self._count = first_block, block_count
        self._parts: list[tuple[Int64Array, Int64Array, int]] = []
        self._runs = 0

    def add(
        self,
        start: Int64Array | Uint32Array | int,
        count: Int64Array | int,
        kind: MetadataClass,
    ) -> None:
        """Add runs of blocks.

        Args:
            start: First block of each run.
            count: Blocks of each run; one number means the same for all.
            kind: What they hold.

        Raises:
            CorruptImageError: A run is not inside the volume.
            LimitExceededError: More than :data:`MAX_RUNS` runs.
        """
        starts = np.atleast_1d(np.asarray(start, dtype=np.int64))
        counts = np.broadcast_to(
            np.asarray(count, dtype=np.int64), starts.shape
        )
        wrong = starts < self._first
        wrong |= (counts < 0) | (counts > self._count)
        wrong |= starts > self._count - counts
        if wrong.any():
            at = int(np.argmax(wrong))
            raise CorruptImageError(
                f"{kind} blocks {starts[at]} (+{counts[at]}) lie outside "
                f"blocks {self._first} to {self._count - 1}; run "
                f"{self._checker} in the guest first"
            )
        self._keep(
            starts * self._block_bytes, counts * self._block_bytes, kind
        )

    def add_bytes(self, offset: int, length: int, kind: MetadataClass) -> None:
        """Add one run in bytes; the caller has checked it."""
        self._keep(np.array([offset]), np.array([length]), kind)

    def _keep(
        self, offsets: Int64Array, lengths: Int64Array, kind: MetadataClass
    ) -> None:
        """Store runs in bytes."""
        self._runs = require_limit(
            self._runs + len(offsets), MAX_RUNS, "the number of metadata runs"
        )
        self._parts.append((offsets, lengths, _CODES[kind]))

    def blocks(self, kind: MetadataClass, limit: int) -> Int64Array:
        """Return every block of one kind, in the order they were added.

        Args:
            kind: Which runs.
            limit: The most blocks that may be.

        Raises:
            LimitExceededError: There are more.
        """
        parts = [part for part in self._parts if part[2] == _CODES[kind]]
        total = sum(int(part[1].sum()) for part in parts) // self._block_bytes
        require_limit(total, limit, f"the number of {kind} blocks")
        if not parts:
            return np.zeros(0, dtype=np.int64)
        starts = np.concatenate([part[0] for part in parts])
        counts = np.concatenate([part[1] for part in parts])
        starts, counts = (
            starts // self._block_bytes,
            counts // self._block_bytes,
        )
        before = np.cumsum(counts) - counts
        return np.repeat(starts - before, counts) + np.arange(total)

    def merged(self) -> tuple[Extent, ...]:
        """Return sorted, disjoint extents; equal kinds that touch are one.

        Where runs overlap, the one that begins first keeps the shared bytes,
        as in :meth:`~vmsec.ondisk.extent.ExtentBuilder.merged`.
        """
        if not self._parts:
            return ()
        starts = np.concatenate([part[0] for part in self._parts])
        ends = starts + np.concatenate([part[1] for part in self._parts])
        codes = np.repeat(
            np.array([part[2] for part in self._parts], dtype=np.int64),
            [len(part[0]) for part in self._parts],
        )
        order = np.lexsort((codes, starts))
        starts, ends, codes = starts[order], ends[order], codes[order]
        covered = np.maximum.accumulate(ends)
        starts[1:] = np.maximum(starts[1:], covered[:-1])
        full = starts < ends
        starts, ends, codes = starts[full], ends[full], codes[full]
        new = np.ones(len(starts), dtype=np.bool_)
        new[1:] = (starts[1:] != ends[:-1]) | (codes[1:] != codes[:-1])
        heads = np.flatnonzero(new)
        tails = np.append(heads[1:], len(starts)) - 1 if len(heads) else heads
        return tuple(
            Extent(start, end - start, _KINDS[code])
            for start, end, code in zip(
                starts[heads].tolist(),
                ends[tails].tolist(),
                codes[heads].tolist(),
                strict=True,
            )
        )
