"""What to seal: from a disk's layout to block-aligned, disjoint extents.

Pure: it decides, it neither reads the disk nor writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.crypto.aead import MAX_EXTENT_BYTES
from vmsec.ondisk.extent import BOOT_CLASSES, Extent, Level, MetadataClass
from vmsec.units import SEAL_BLOCK_BYTES, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.ondisk.layout import DiskLayout

FIRST_MFT_BYTES = 64 << 10
"""Level ``boot`` seals the MFT's first 16 records of up to 4 KiB: the system
files without which nothing is found."""


def plan_extents(
    layout: DiskLayout, level: Level, fallback_bytes: int
) -> tuple[Extent, ...]:
    """Return the extents to seal.

    Args:
        layout: What was found on the disk.
        level: How much is sealed.
        fallback_bytes: What is sealed at the head and at the tail of a
            partition whose file system is unknown, in bytes.

    Returns:
        Sorted, disjoint, cut at absolute 1 MiB borders, block aligned (but at
        the end of the disk), behind LBA 0, whose original is kept in the
        manifest. The rest of its block is always among them, so that the
        journal covers the whole physical sector (I1).
    """
    first = layout.sector_bytes
    extents = list(metadata_extents(layout, level, fallback_bytes))
    if first < SEAL_BLOCK_BYTES:
        rest = Extent(first, SEAL_BLOCK_BYTES - first, MetadataClass.LBA0)
        extents.append(rest)
    return tuple(_cut(_aligned(extents, first, layout.size_bytes)))


def metadata_extents(
    layout: DiskLayout, level: Level, fallback_bytes: int
) -> Iterator[Extent]:
    """Yield what a level covers, as exact as the parsers found it.

    Unsorted, not aligned, and it may overlap; see :func:`plan_extents`.
    """
    yield from _found(layout, level)
    yield from _fallback(layout, fallback_bytes)


def _found(layout: DiskLayout, level: Level) -> Iterator[Extent]:
    yield from _of_level(layout.extents, level)
    for part in layout.partitions:
        if part.content is not None:
            for extent in _of_level(part.content.extents, level):
                yield extent._replace(offset=part.offset + extent.offset)


def _of_level(extents: Iterable[Extent], level: Level) -> Iterator[Extent]:
    if level is not Level.BOOT:
        yield from extents
        return
    begun = False
    for extent in extents:
        if extent.kind in BOOT_CLASSES:
            yield extent
        elif extent.kind is MetadataClass.MFT and not begun:
            begun = True
            length = min(extent.length, FIRST_MFT_BYTES)
            yield extent._replace(length=length)


def _fallback(layout: DiskLayout, size: int) -> Iterator[Extent]:
    for part in layout.partitions:
        if part.status != "unknown":
            continue
        head = min(size, part.length)
        tail = min(size, part.length - head)
        end = part.offset + part.length
        yield Extent(part.offset, head, MetadataClass.FALLBACK)
        yield Extent(end - tail, tail, MetadataClass.FALLBACK)


def _aligned(extents: list[Extent], first: int, size: int) -> Iterator[Extent]:
    """Round outwards to blocks; a block belongs to whoever began first."""
    end = first
    for extent in sorted(extents):
        start = max(align_down(extent.offset, SEAL_BLOCK_BYTES), end)
        stop = min(align_up(extent.end, SEAL_BLOCK_BYTES), size)
        if stop > start:
            yield Extent(start, stop - start, extent.kind)
            end = stop


def _cut(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join what touches and is of one class, then cut at 1 MiB borders."""
    run: Extent | None = None
    for extent in extents:
        if run and run.end == extent.offset and run.kind == extent.kind:
            run = Extent(run.offset, extent.end - run.offset, run.kind)
            continue
        if run:
            yield from _borders(run)
        run = extent
    if run:
        yield from _borders(run)


def _borders(extent: Extent) -> Iterator[Extent]:
    start = extent.offset
    while start < extent.end:
        border = align_down(start, MAX_EXTENT_BYTES) + MAX_EXTENT_BYTES
        stop = min(border, extent.end)
        yield Extent(start, stop - start, extent.kind)
        start = stop
