"""The file allocation table itself: cluster chains of 12, 16 or 32 bits.

FAT and exFAT share its form; of the 32 bits FAT32 uses 28 and exFAT all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import CorruptImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.source import BlockSource

_FIRST_CLUSTER = 2
_WINDOW_BYTES = 3 << 16
"""How much of the table is read at once: a multiple of 3, so that no 12-bit
entry straddles two windows."""

_MAX_WINDOWS = 64
"""How many windows are kept: 12 MiB of a table that may have 1 GiB."""

_END_OF_CHAIN = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}
"""fatgen103, "FAT Data Structure": this and above ends a chain."""

_END_OF_EXFAT_CHAIN = 0xFFFFFFFF
"""exFAT specification 4.1.3: no other value does."""


class FATTable:
    """Follows chains without holding the whole table in memory.

    Args:
        source: The volume.
        offset: Where the active table begins, in bytes.
        clusters: How many clusters the volume has.
        bits: 12, 16 or 32; of the 32 the upper 4 are reserved, but not
            in exFAT.
        is_exfat: Whether the volume is one.
    """

    def __init__(
        self,
        source: BlockSource,
        offset: int,
        clusters: int,
        *,
        bits: int,
        is_exfat: bool = False,
    ) -> None:
        self._source, self._offset, self._bits = source, offset, bits
        self._name = "exFAT" if is_exfat else "FAT"
        self._end = _END_OF_EXFAT_CHAIN if is_exfat else _END_OF_CHAIN[bits]
        self._mask = 0xFFFFFFFF if is_exfat else 0x0FFFFFFF
        self._last = clusters + _FIRST_CLUSTER - 1
        self._bytes = -(-(self._last + 1) * bits // 8)
        self._windows: dict[int, bytes] = {}

    def chain(self, first: int) -> Iterator[int]:
        """Yield the clusters of a chain, in order.

        The caller guards against rings: it knows what it has seen.

        Raises:
            CorruptImageError: The chain leads to a free, bad or missing
                cluster.
        """
        cluster = first
        while True:
            if not _FIRST_CLUSTER <= cluster <= self._last:
                raise CorruptImageError(
                    f"{self._name}: the chain from cluster {first} leads to "
                    f"{cluster}; repair it with fsck.{self._name.lower()}"
                )
            yield cluster
            cluster = self.entry(cluster)
            if cluster >= self._end:
                return

    def entry(self, cluster: int) -> int:
        """Return the table's entry for a cluster."""
        bit = cluster * self._bits
        window, inside = divmod(bit // 8, _WINDOW_BYTES)
        width = 4 if self._bits == 32 else 2
        data = self._window(window)[inside : inside + width]
        value = int.from_bytes(data, "little")
        if self._bits == 12:
            return value >> 4 if bit % 8 else value & 0xFFF
        return value & self._mask

    def _window(self, number: int) -> bytes:
        """Return a part of the table, from memory if it was read before."""
        if number not in self._windows:
            if len(self._windows) >= _MAX_WINDOWS:
                del self._windows[next(iter(self._windows))]
            start = number * _WINDOW_BYTES
            length = min(_WINDOW_BYTES, self._bytes - start)
            self._windows[number] = self._source.read_at(
                self._offset + start, length
            )
        return self._windows[number]
