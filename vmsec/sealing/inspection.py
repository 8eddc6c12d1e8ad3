"""Looking at an image without changing it: status and inspection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import CorruptImageError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.layout import Partition, read_layout
from vmsec.sealing.header import is_marked, parse_header
from vmsec.sealing.image import open_device, open_journal, resolve
from vmsec.sealing.journal import HotJournal
from vmsec.sealing.model import (
    ImageRef,
    ImageReport,
    ImageStatus,
    PartitionReport,
    SealSettings,
)
from vmsec.sealing.plan import plan_extents
from vmsec.sealing.reader import read_nonzero
from vmsec.units import SEAL_BLOCK_BYTES

if TYPE_CHECKING:
    from vmsec.sealing.device import FileDevice

STAYS_READABLE = (
    "File contents: this level hides names and structure, not contents; "
    "tools that carve by signature (foremost, photorec) and strings still "
    "find whole files and texts."
)


def read_status(image: ImageRef, *, settings: SealSettings) -> ImageStatus:
    """Say what LBA 0 and the journal tell, without a key; takes no lock.

    Raises:
        HeaderError: A damaged mark; never read as "plain".
        JournalCorruptError: A damaged journal.
    """
    image = resolve(image)
    journal = open_journal(image, settings)
    with open_device(image, writable=False) as device:
        size = min(SEAL_BLOCK_BYTES, device.size_bytes)
        lba0 = device.read_at(0, size)
        total, name = device.size_bytes, device.name
    if journal.exists():
        index = HotJournal(journal).index
        mark = index.sealed_lba0
        return _status("interrupted", mark, total, name, journal.name)
    if not is_marked(lba0):
        return ImageStatus(state="plain", disk_bytes=total)
    return _status("sealed", lba0, total, name, None)


def _status(
    state: str, lba0: bytes, size: int, name: str, journal: str | None
) -> ImageStatus:
    header = parse_header(lba0, target=name)
    context = header.context
    return ImageStatus(
        state=state,
        disk_bytes=size,
        vm=context.vm,
        disk=context.disk,
        generation=context.generation,
        key_version=context.key_version,
        level=header.level,
        embedded=bool(header.manifest.length),
        journal=journal,
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
        partitions=tuple(_partition(part) for part in layout.partitions),
        classes=classes,
        sealed_bytes=sum(size for _, size in classes.values()),
        notes=tuple(layout.notes),
        stays_readable=STAYS_READABLE,
    )


def _partition(part: Partition) -> PartitionReport:
    content = part.content
    notes = [part.note, *(content.notes if content else ())]
    return PartitionReport(
        number=part.number,
        offset=part.offset,
        length=part.length,
        type_id=part.type_id,
        status=part.status,
        filesystem=content.filesystem if content else "",
        note="; ".join(note for note in notes if note),
    )
