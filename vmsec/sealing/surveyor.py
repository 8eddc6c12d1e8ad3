"""Look at every range of a disk without changing it or taking its lock.

What is known of a disk comes in layers, the upper one hiding the lower: what
is sealed (or would be), the zeros inside it, the holes, and what is left. A
sealed disk tells without its key only where its mark, its manifest and its
holes are; with the key the manifest tells all that was sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import RecoveryRequiredError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.layout import read_layout
from vmsec.ondisk.probe import Status
from vmsec.sealing.engine import open_sealed, read_mark, require_plain
from vmsec.sealing.header import is_marked, parse_header
from vmsec.sealing.image import open_device, open_journal, resolve
from vmsec.sealing.inspection import partition_report
from vmsec.sealing.layer import encrypted, sealed_ranges, stored
from vmsec.sealing.plan import plan_extents
from vmsec.sealing.reader import read_nonzero
from vmsec.sealing.survey import (
    Chart,
    Range,
    Rest,
    draw,
    fill,
    touching,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.crypto.context import SealContext
    from vmsec.ondisk.layout import DiskLayout
    from vmsec.sealing.device import FileDevice
    from vmsec.sealing.header import SealHeader
    from vmsec.sealing.manifest import ManifestStore
    from vmsec.sealing.model import (
        ImageRef,
        KeySource,
        PartitionReport,
        SealSettings,
    )
    from vmsec.sealing.survey import Below

PARTITIONS_SEALED = (
    "the partitions are part of what is sealed; they are not shown"
)
NO_KEY = (
    "without the key nobody can tell what is sealed from what is data: shown "
    "are the mark, the manifest and what is zero; give --key-file to see more"
)
NOT_SCANNED = (
    "zero means: a hole of the image file; --scan also finds zeros that are "
    "stored"
)
OWN_ENCRYPTION = "it carries its own encryption; seal refuses it"


class Sight(NamedTuple):
    """How to look.

    ``max_cells`` bounds the picture; ``scan`` reads all stored data to find
    the zeros in it, which takes as long as reading the disk.
    """

    max_cells: int
    scan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A disk, looked at.

    ``state`` is ``plain`` or ``sealed``. ``sealed_bytes`` are those that are
    sealed, or would be at ``level``; ``None`` where only the key could tell.
    ``context`` is the mark's, authentic only if the key was given.
    """

    name: str
    state: str
    level: str
    label: str
    disk_bytes: int
    sealed_bytes: int | None
    context: SealContext | None
    partitions: tuple[PartitionReport, ...]
    chart: Chart
    notes: tuple[str, ...]


def survey_image(
    image: ImageRef,
    *,
    settings: SealSettings,
    sight: Sight,
    keys: KeySource | None = None,
    manifests: ManifestStore | None = None,
) -> Survey:
    """Look at a disk; writes nothing and takes no lock.

    Args:
        image: The disk; a guest may run on it, then the picture is that of
            no single moment.
        settings: At which level a plain disk would be sealed.
        sight: How to look.
        keys: Where the key of a sealed disk comes from, if it is there.
        manifests: Where copies of its manifest are, besides the disk.

    Raises:
        RecoveryRequiredError: An operation on it was interrupted.
        HeaderError, IntegrityError, ManifestError: It is sealed, and mark,
            key or manifest are not right.
        CorruptImageError: It cannot be read with certainty.
        FormatError, ImageIOError: As they say.
    """
    image = resolve(image)
    require_cold(image, settings)
    with open_device(image, writable=False) as device:
        lba0 = read_mark(device)
        if not is_marked(lba0):
            require_plain(device)
            return _survey_plain(device, settings, sight)
        if keys is not None:
            return _survey_opened(device, keys, manifests, sight)
        header = parse_header(lba0, target=device.name)
        return _survey_closed(device, header, sight)


def require_cold(image: ImageRef, settings: SealSettings) -> None:
    """Check that no operation on a resolved image was interrupted.

    Raises:
        RecoveryRequiredError: One was: the image is half sealed.
        ConfigurationError: A block device, and no journal directory is set.
    """
    journal = open_journal(image, settings)
    if journal.exists():
        raise RecoveryRequiredError(
            f"{image.path}: half done, its journal is {journal.name}; run "
            f"'vmsec image recover {image.path}' first"
        )


def _survey_plain(
    device: FileDevice, settings: SealSettings, sight: Sight
) -> Survey:
    layout = read_layout(device)
    notes = [*layout.notes, *_scan_note(sight)]
    sealed: Iterable[Range] = ()
    planned: tuple[Range, ...] = ()
    if _is_own_encryption(layout):
        notes.append(OWN_ENCRYPTION)
    else:
        extents = plan_extents(layout, settings.level, settings.fallback_bytes)
        planned = tuple(Range(e.offset, e.length, Rest.ZERO) for e in extents)
        sealed = sealed_ranges(
            layout.sector_bytes, read_nonzero(device, extents)
        )
    data = stored(device, Rest.READABLE, scan=sight.scan)
    data = encrypted(layout, data)

    def below(offset: int, length: int) -> Iterator[Range]:
        zero = touching(planned, offset, length)
        return fill(zero, offset, length, data)

    chart = _draw(device, sealed, below, sight)
    return Survey(
        name=device.name,
        state="plain",
        level=str(settings.level),
        label=layout.label,
        disk_bytes=device.size_bytes,
        sealed_bytes=_sealed_bytes(chart),
        context=None,
        partitions=tuple(map(partition_report, layout.partitions)),
        chart=chart,
        notes=tuple(notes),
    )


def _survey_opened(
    device: FileDevice,
    keys: KeySource,
    manifests: ManifestStore | None,
    sight: Sight,
) -> Survey:
    """Look at a sealed disk with its key: the manifest tells."""
    manifest = open_sealed(device, None, keys, manifests).manifest
    ranges = [Range(0, manifest.sector_bytes, MetadataClass.LBA0)]
    ranges += [Range(*item.extent) for item in manifest.extents]
    ranges.append(Range(*manifest.embedded_at, MetadataClass.MANIFEST))
    below = stored(device, Rest.READABLE, scan=sight.scan)
    return Survey(
        name=device.name,
        state="sealed",
        level=str(manifest.level),
        label="",
        disk_bytes=device.size_bytes,
        sealed_bytes=manifest.sealed_bytes,
        context=manifest.context,
        partitions=(),
        chart=_draw(device, sorted(ranges), below, sight),
        notes=(PARTITIONS_SEALED, *_scan_note(sight)),
    )


def _survey_closed(
    device: FileDevice, header: SealHeader, sight: Sight
) -> Survey:
    """Look at a sealed disk without its key: its mark tells little."""
    place = header.manifest
    ranges = [
        Range(0, header.sector_bytes, MetadataClass.LBA0),
        Range(place.offset, place.length, MetadataClass.MANIFEST),
    ]
    below = stored(device, Rest.UNKNOWN, scan=sight.scan)
    return Survey(
        name=device.name,
        state="sealed",
        level=str(header.level),
        label="",
        disk_bytes=device.size_bytes,
        sealed_bytes=None,
        context=header.context,
        partitions=(),
        chart=_draw(device, ranges, below, sight),
        notes=(NO_KEY, PARTITIONS_SEALED, *_scan_note(sight)),
    )


def _draw(
    device: FileDevice, top: Iterable[Range], below: Below, sight: Sight
) -> Chart:
    size = device.size_bytes
    return draw(fill(top, 0, size, below), size, sight.max_cells)


def _scan_note(sight: Sight) -> tuple[str, ...]:
    return () if sight.scan else (NOT_SCANNED,)


def _is_own_encryption(layout: DiskLayout) -> bool:
    """Whether the disk as a whole is somebody else's ciphertext."""
    return any(
        part.number == 0 and part.status is Status.ENCRYPTED
        for part in layout.partitions
    )


def _sealed_bytes(chart: Chart) -> int:
    return sum(
        total.size
        for kind, total in chart.totals.items()
        if isinstance(kind, MetadataClass)
    )
