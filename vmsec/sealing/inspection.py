"""Looking at a plain image without changing it: what would be sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import CorruptImageError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.layout import Partition, read_layout
from vmsec.sealing.header import is_marked
from vmsec.sealing.image import open_device, resolve
from vmsec.sealing.model import (
    ImageRef,
    ImageReport,
    PartitionReport,
    SealSettings,
)
from vmsec.sealing.plan import plan_extents
from vmsec.sealing.reader import read_nonzero
from vmsec.sealing.status import read_status

if TYPE_CHECKING:
    from vmsec.sealing.device import FileDevice

__all__ = [
    "STAYS_READABLE",
    "inspect_image",
    "partition_report",
    "read_status",
]

STAYS_READABLE = (
    "File contents: this level hides names and structure, not contents; "
    "tools that carve by signature (foremost, photorec) and strings still "
    "find whole files and texts."
)


def inspect_image(image: ImageRef, *, settings: SealSettings) -> ImageReport:
    """Say what would be sealed of a plain disk; writes nothing.

    Raises:
        CorruptImageError: It is sealed, or cannot be read with certainty.
        FormatError: As it says.
    """
    image = resolve(image)
    with open_device(image, writable=False) as device:
        if is_marked(device.read_at(0, min(4096, device.size_bytes))):
            raise CorruptImageError(
                f"{device.name}: sealed by vmsec; its structures are "
                "ciphertext; use 'vmsec image status'"
            )
        return _inspect(device, settings)


def _inspect(device: FileDevice, settings: SealSettings) -> ImageReport:
    layout = read_layout(device)
    extents = plan_extents(layout, settings.level, settings.fallback_bytes)
    counts = {kind: [0, 0] for kind in MetadataClass}
    counts[MetadataClass.LBA0] = [1, layout.sector_bytes]
    for extent, _ in read_nonzero(device, extents):
        counts[extent.kind][0] += 1
        counts[extent.kind][1] += extent.length
    classes = {str(k): (v[0], v[1]) for k, v in counts.items() if v[0]}
    return ImageReport(
        label=layout.label,
        disk_bytes=layout.size_bytes,
        level=settings.level,
        partitions=tuple(partition_report(part) for part in layout.partitions),
        classes=classes,
        sealed_bytes=sum(size for _, size in classes.values()),
        notes=tuple(layout.notes),
        stays_readable=STAYS_READABLE,
    )


def partition_report(part: Partition) -> PartitionReport:
    """Say of a partition what operators ask for."""
    content = part.content
    return PartitionReport(
        number=part.number,
        offset=part.offset,
        length=part.length,
        type_id=part.type_id,
        status=part.status,
        filesystem=content.filesystem if content else "",
        note=part.note,
    )
