"""Where in the disk the manifest fits: zeros outside every partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmsec.ondisk.layout import free_ranges
from vmsec.sealing.manifest import BLOB_MAGIC
from vmsec.units import MIB, SEAL_BLOCK_BYTES, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmsec.ondisk.extent import Extent
    from vmsec.ondisk.layout import DiskLayout
    from vmsec.sealing.device import BlockDevice

SEARCHED_BYTES = 8 * MIB
"""How much of each free range is searched for zeros: the gap before the first
partition has 1 MiB, at most 8 in the field."""


def find_place(
    device: BlockDevice,
    layout: DiskLayout,
    extents: Iterable[Extent],
    length: int,
) -> tuple[int, int] | None:
    """Find zeros outside every partition and every sealed extent.

    Args:
        device: The disk, still plain.
        layout: Its layout.
        extents: The plan, which the place must not touch.
        length: How many bytes are needed.

    Returns:
        (offset, length rounded up to blocks) in bytes, or None.
    """
    padded = align_up(length, SEAL_BLOCK_BYTES)
    taken = sorted((extent.offset, extent.end) for extent in extents)
    for offset, size in sorted(free_ranges(layout)):
        first = align_up(max(offset, SEAL_BLOCK_BYTES), SEAL_BLOCK_BYTES)
        last = align_down(offset + size, SEAL_BLOCK_BYTES)
        last = min(last, first + SEARCHED_BYTES)
        if last - first < padded:
            continue
        place = _zeros(device.read_at(first, last - first), padded)
        if place is None:
            continue
        if not _touches(taken, first + place, first + place + padded):
            return first + place, padded
    return None


def _zeros(data: bytes, length: int) -> int | None:
    """Return where the first run of ``length`` zero bytes begins."""
    words = np.frombuffer(data, np.uint64).reshape(-1, SEAL_BLOCK_BYTES // 8)
    used = np.flatnonzero(words.any(1)).tolist()
    start = 0
    for block in [*used, len(words)]:
        if (block - start) * SEAL_BLOCK_BYTES >= length:
            return start * SEAL_BLOCK_BYTES
        start = block + 1
    return None


def _touches(taken: list[tuple[int, int]], start: int, stop: int) -> bool:
    return any(begin < stop and start < end for begin, end in taken)


def holds_orphan(device: BlockDevice) -> bool:
    """Whether the first MiB holds a manifest, though LBA 0 has no mark.

    Such a disk was sealed and its LBA 0 overwritten; it is never "plain".
    """
    data = device.read_at(0, min(2 * MIB, device.size_bytes))
    step = SEAL_BLOCK_BYTES
    return any(
        data[place : place + len(BLOB_MAGIC)] == BLOB_MAGIC
        for place in range(0, len(data), step)
    )
