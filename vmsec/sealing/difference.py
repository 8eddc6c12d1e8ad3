"""What differs between two disks, by class of metadata.

Two plain disks are compared where either has metadata (and, if asked for,
everywhere). Of two sealed disks only the marks are compared: two seals of one
disk share no byte of ciphertext. Nothing is written and no lock is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmsec.errors import FormatError
from vmsec.ondisk.extent import Level
from vmsec.ondisk.layout import read_layout
from vmsec.sealing.engine import read_mark, require_plain
from vmsec.sealing.header import is_marked, parse_header
from vmsec.sealing.image import open_device, resolve
from vmsec.sealing.plan import metadata_extents
from vmsec.sealing.survey import KINDS, Range, Rest, fill, joined, touching
from vmsec.sealing.surveyor import require_cold
from vmsec.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.sealing.device import BlockDevice, FileDevice
    from vmsec.sealing.model import ImageRef, SealSettings
    from vmsec.sealing.survey import Kind

FIRST_OFFSETS = 4
"""So many places of each class are named."""

SIZE, STATE, MARK = "disk-size", "state", "mark-"

BOTH_SEALED = (
    "both are sealed: their marks were compared, without a key; what they "
    "hold was not"
)
ONE_SEALED = "one is sealed and the other is not: nothing else was compared"
METADATA_ONLY = (
    "metadata only was compared; --contents compares the contents as well"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs.

    ``name`` is a class of metadata, ``readable`` for contents,
    ``disk-size``, ``state``, or ``mark-`` and a field of the mark. For
    classes ``extents`` and ``size`` say how many extents and bytes differ,
    ``first_offsets`` where the first ones begin to, and ``a`` and ``b`` how
    many bytes each disk has of the class.
    """

    name: str
    a: int | str | None
    b: int | str | None
    extents: int | None = None
    size: int | None = None
    first_offsets: tuple[int, ...] = ()


class Comparison(NamedTuple):
    """All that differs (nothing: the same), and notes for the operator."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


class _Side(NamedTuple):
    """One of two plain disks: its device and where its metadata is."""

    device: BlockDevice
    metadata: tuple[Range, ...]


def compare_images(
    a: ImageRef, b: ImageRef, *, settings: SealSettings, contents: bool
) -> Comparison:
    """Compare two disks; writes nothing and takes no lock.

    Args:
        a: One disk.
        b: The other one.
        settings: Where journals are, and how much of a partition of unknown
            content counts as metadata. The level does not matter.
        contents: Whether to compare plain disks everywhere.

    Raises:
        RecoveryRequiredError: An operation on one of them was interrupted.
        HeaderError: A mark is damaged.
        FormatError, ImageIOError: As they say; the image is named.
    """
    a, b = resolve(a), resolve(b)
    for image in (a, b):
        require_cold(image, settings)
    with (
        open_device(a, writable=False) as first,
        open_device(b, writable=False) as second,
    ):
        found = list(_sizes(first, second))
        marked = [is_marked(read_mark(disk)) for disk in (first, second)]
        if all(marked):
            found += _marks(first, second)
            return Comparison(tuple(found), (BOTH_SEALED,))
        if any(marked):
            names = ["sealed" if mark else "plain" for mark in marked]
            found.append(Difference(name=STATE, a=names[0], b=names[1]))
            return Comparison(tuple(found), (ONE_SEALED,))
        sides = _side(first, settings), _side(second, settings)
        found += _classes(*sides, contents=contents)
        return Comparison(tuple(found), () if contents else (METADATA_ONLY,))


def _sizes(a: BlockDevice, b: BlockDevice) -> Iterator[Difference]:
    sizes = a.size_bytes, b.size_bytes
    if sizes[0] != sizes[1]:
        yield Difference(
            name=SIZE,
            a=sizes[0],
            b=sizes[1],
            size=abs(sizes[0] - sizes[1]),
            first_offsets=(min(sizes),),
        )


def _marks(a: FileDevice, b: FileDevice) -> Iterator[Difference]:
    """Yield what differs between two marks; neither is authenticated."""
    left, right = _mark_fields(a), _mark_fields(b)
    for name, value in left.items():
        if value != right[name]:
            yield Difference(name=MARK + name, a=value, b=right[name])


def _mark_fields(device: FileDevice) -> dict[str, int | str]:
    header = parse_header(read_mark(device), target=device.name)
    context, place = header.context, header.manifest
    return {
        "vm": str(context.vm),
        "disk": str(context.disk),
        "generation": context.generation,
        "key-version": context.key_version,
        "salt": context.salt.hex(),
        "level": str(header.level),
        "disk-bytes": header.disk_bytes,
        "sector-bytes": header.sector_bytes,
        "manifest-offset": place.offset,
        "manifest-length": place.length,
        "manifest-digest": place.digest.hex(),
    }


def _side(device: FileDevice, settings: SealSettings) -> _Side:
    """Find the metadata of a plain disk; errors name the disk."""
    require_plain(device)
    try:
        layout = read_layout(device)
    except FormatError as err:
        raise type(err)(f"{device.name}: {err}") from err
    extents = metadata_extents(layout, Level.METADATA, settings.fallback_bytes)
    ranges = sorted(Range(*extent) for extent in extents)
    disjoint = fill(ranges, 0, device.size_bytes, lambda *_: ())
    return _Side(device, tuple(joined(disjoint)))


def _classes(a: _Side, b: _Side, *, contents: bool) -> Iterator[Difference]:
    """Yield what differs, class by class in the order of display."""
    tallies: dict[Kind, list[tuple[int, int]]] = {}
    for item in joined(_places(a, b, contents=contents)):
        size, first = _compare(a.device, b.device, item)
        if size:
            tallies.setdefault(item.kind, []).append((first, size))
    for kind in KINDS:
        if kind in tallies:
            found = tallies[kind]
            yield Difference(
                name=str(kind),
                a=_amount(a, kind),
                b=_amount(b, kind),
                extents=len(found),
                size=sum(size for _, size in found),
                first_offsets=tuple(n for n, _ in found[:FIRST_OFFSETS]),
            )


def _amount(side: _Side, kind: Kind) -> int | None:
    """Return how many bytes of a class a disk has; contents are not known."""
    if kind is Rest.READABLE:
        return None
    return sum(item.length for item in side.metadata if item.kind == kind)


def _places(a: _Side, b: _Side, *, contents: bool) -> Iterator[Range]:
    """Yield what is to be compared; A says the class where both have one."""

    def rest(offset: int, length: int) -> Iterable[Range]:
        return [Range(offset, length, Rest.READABLE)] if contents else []

    def below(offset: int, length: int) -> Iterator[Range]:
        place = offset, length
        return fill(touching(b.metadata, *place), *place, rest)

    size = max(a.device.size_bytes, b.device.size_bytes)
    return fill(a.metadata, 0, size, below)


def _compare(a: BlockDevice, b: BlockDevice, item: Range) -> tuple[int, int]:
    """Return how many bytes of a range differ, and where the first is."""
    both = min(a.size_bytes, b.size_bytes, item.end)
    count, first = 0, item.end
    for offset in range(item.offset, both, MIB):
        length = min(MIB, both - offset)
        if not (_stores(a, offset, length) or _stores(b, offset, length)):
            continue
        here = np.flatnonzero(
            np.frombuffer(a.read_at(offset, length), np.uint8)
            != np.frombuffer(b.read_at(offset, length), np.uint8)
        )
        if len(here):
            count += len(here)
            first = min(first, offset + int(here[0]))
    missing = item.end - max(both, item.offset)
    if missing > 0:  # only one of the disks is so long
        count += missing
        first = min(first, max(both, item.offset))
    return count, first


def _stores(device: BlockDevice, offset: int, length: int) -> bool:
    return any(True for _ in device.data_ranges(offset, length))
