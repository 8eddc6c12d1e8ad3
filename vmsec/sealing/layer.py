"""The layers of a survey: what lies on a disk, from the device's own words.

A layer is a function from an interval to the ranges that cover it; see
:func:`vmsec.sealing.survey.fill`. Each is asked in the order of the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.probe import Status
from vmsec.sealing.reader import nonzero_runs
from vmsec.sealing.survey import Range, Rest, fill, touching, zeros
from vmsec.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.ondisk.layout import DiskLayout
    from vmsec.sealing.device import BlockDevice
    from vmsec.sealing.reader import Plain
    from vmsec.sealing.survey import Below, Kind


def sealed_ranges(
    sector_bytes: int, plain: Iterable[Plain]
) -> Iterator[Range]:
    """Yield LBA 0, whose original the manifest keeps, and what is no zero."""
    yield Range(0, sector_bytes, MetadataClass.LBA0)
    for item in plain:
        yield Range(*item.extent)


def stored(device: BlockDevice, kind: Kind, *, scan: bool) -> Below:
    """Return the layer of what the disk stores, and its holes."""

    def below(offset: int, length: int) -> Iterator[Range]:
        found = device.data_ranges(offset, length)
        if scan:
            found = _scanned(device, found)
        ranges = (Range(start, size, kind) for start, size in found)
        return fill(ranges, offset, length, zeros)

    return below


def _scanned(
    device: BlockDevice, found: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Read stored data and yield what of it is not zero."""
    buffer = memoryview(bytearray(MIB))
    for offset, length in found:
        for start in range(offset, offset + length, MIB):
            view = buffer[: min(MIB, offset + length - start)]
            device.read_into(start, view)
            for first, size in nonzero_runs(view):
                yield start + first, size


def encrypted(layout: DiskLayout, below: Below) -> Below:
    """Return a layer in which encrypted partitions do not look readable."""
    encrypted = sorted(
        Range(part.offset, part.length, Rest.ENCRYPTED)
        for part in layout.partitions
        if part.status is Status.ENCRYPTED
    )

    def relabelled(offset: int, length: int) -> Iterator[Range]:
        for item in below(offset, length):
            if item.kind is Rest.READABLE:
                place = item.offset, item.length
                hidden = touching(encrypted, *place)
                yield from fill(hidden, *place, _readable)
            else:
                yield item

    return relabelled


def _readable(offset: int, length: int) -> Iterator[Range]:
    yield Range(offset, length, Rest.READABLE)
