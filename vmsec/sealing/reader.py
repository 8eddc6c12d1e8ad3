"""Reading what is to be sealed, without what is zero.

Whatever is all zero is left out and stays a hole: a sparse disk stays sparse,
and zeros name nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmsec.ondisk.extent import Extent, MetadataClass
from vmsec.units import SEAL_BLOCK_BYTES, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmsec.sealing.device import BlockDevice

KEPT_ZERO_BLOCKS = 16
"""Shorter runs of zero blocks inside data (64 KiB) are sealed with it: more
extents would cost more than the bytes."""


READ_AHEAD_BYTES = 32 << 20
"""How far the kernel is told ahead what is read next: metadata is scattered
(thousands of directory blocks), and one read at a time leaves a disk idle."""


class Plain(NamedTuple):
    """An extent and its bytes, valid until the next one is taken."""

    extent: Extent
    data: memoryview


def read_ahead(
    device: BlockDevice, extents: Sequence[Extent]
) -> Iterator[Extent]:
    """Yield the extents, telling the device early what comes next."""
    asked = ahead = 0
    for extent in extents:
        while asked < len(extents) and ahead < READ_AHEAD_BYTES:
            later = extents[asked]
            device.prefetch(later.offset, later.length)
            ahead, asked = ahead + later.length, asked + 1
        yield extent
        ahead -= extent.length


def read_nonzero(
    device: BlockDevice, extents: Sequence[Extent]
) -> Iterator[Plain]:
    """Yield the parts of the extents that are not zero, in their order.

    The rest of LBA 0's block (class ``lba0``) is yielded even if it is zero,
    so that the journal covers the physical sector of the mark.
    """
    buffer = memoryview(bytearray(1 << 20))
    for extent in read_ahead(device, extents):
        if extent.kind is MetadataClass.LBA0:
            view = buffer[: extent.length]
            device.read_into(extent.offset, view)
            yield Plain(extent, view)
            continue
        for start, length in _data(device, extent):
            view = buffer[:length]
            device.read_into(start, view)
            for first, size in nonzero_runs(view):
                part = Extent(start + first, size, extent.kind)
                yield Plain(part, view[first : first + size])


def _data(device: BlockDevice, extent: Extent) -> Iterator[tuple[int, int]]:
    """Yield the block-aligned parts of an extent that are no holes."""
    done = extent.offset
    for start, length in device.data_ranges(extent.offset, extent.length):
        first = max(align_down(start, SEAL_BLOCK_BYTES), done)
        stop = min(align_up(start + length, SEAL_BLOCK_BYTES), extent.end)
        if stop > first:
            yield first, stop - first
            done = stop


def nonzero_runs(view: memoryview) -> list[tuple[int, int]]:
    """Return (start, length) in bytes of the runs of blocks that are not zero.

    Zero runs shorter than :data:`KEPT_ZERO_BLOCKS` do not split a run.

    Args:
        view: At most 1 MiB, beginning at a block border.
    """
    size = len(view)
    if size <= KEPT_ZERO_BLOCKS * SEAL_BLOCK_BYTES:
        return [(0, size)] if view.tobytes().strip(b"\0") else []
    whole = align_down(size, SEAL_BLOCK_BYTES)
    words = np.frombuffer(view[:whole], np.uint64)
    blocks = np.flatnonzero(words.reshape(-1, SEAL_BLOCK_BYTES // 8).any(1))
    numbers = blocks.tolist()
    if view[whole:].tobytes().strip(b"\0"):
        numbers.append(whole // SEAL_BLOCK_BYTES)
    runs: list[tuple[int, int]] = []
    for number in numbers:
        start = number * SEAL_BLOCK_BYTES
        stop = min(start + SEAL_BLOCK_BYTES, size)
        if runs and start - sum(runs[-1]) <= (
            KEPT_ZERO_BLOCKS * SEAL_BLOCK_BYTES
        ):
            runs[-1] = (runs[-1][0], stop - runs[-1][0])
        else:
            runs.append((start, stop - start))
    return runs
