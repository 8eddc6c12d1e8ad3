"""A read-only view of a volume in which some blocks have other content.

File systems with a journal keep the newest content of a block there until it
is written to its place; through an overlay it is read as if it had been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from vmsec.ondisk.source import require_inside

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmsec.ondisk.source import BlockSource


class OverlaySource(ABC):
    """A source in which chosen blocks are replaced.

    Args:
        source: The volume.
        block_bytes: Size of a block.
        blocks: Numbers of the blocks that are replaced.
    """

    def __init__(
        self, source: BlockSource, block_bytes: int, blocks: Iterable[int]
    ) -> None:
        self._source, self._size = source, block_bytes
        self._blocks = np.array(sorted(blocks), dtype=np.int64)

    @property
    def size_bytes(self) -> int:
        """Length of the volume in bytes."""
        return self._source.size_bytes

    @property
    def sector_bytes(self) -> int:
        """Logical sector size of the volume in bytes."""
        return self._source.sector_bytes

    @property
    def replayed_blocks(self) -> int:
        """How many blocks are replaced."""
        return len(self._blocks)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes; see ``BlockSource``."""
        require_inside(self.size_bytes, offset, length)
        data = self._source.read_at(offset, length)
        low, high = np.searchsorted(
            self._blocks,
            [offset // self._size, -(-(offset + length) // self._size)],
        )
        if low == high:
            return data
        patched = bytearray(data)
        for block in self._blocks[low:high].tolist():
            place = block * self._size - offset
            start, end = max(place, 0), min(place + self._size, length)
            content = self._read_block(block)
            patched[start:end] = content[start - place : end - place]
        return bytes(patched)

    @abstractmethod
    def _read_block(self, block: int) -> bytes:
        """Return the other content of a replaced block."""
