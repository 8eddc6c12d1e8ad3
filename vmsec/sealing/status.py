"""The state of an image, told by its mark and its journal, without a key.

It loads neither parsers nor the engine: scripts ask for it often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import ImageIOError
from vmsec.sealing.header import is_marked, parse_header
from vmsec.sealing.image import open_device, open_journal, resolve
from vmsec.sealing.model import ImageStatus
from vmsec.units import SEAL_BLOCK_BYTES

if TYPE_CHECKING:
    from vmsec.sealing.journalfile import FileJournal
    from vmsec.sealing.model import ImageRef, SealSettings


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
        try:
            mark = _read_mark(journal)
        except ImageIOError:
            if journal.exists():
                raise
            # A job ended while we looked: look again.
            return read_status(image, settings=settings)
        return _status("interrupted", mark, total, name, journal.name)
    if not is_marked(lba0):
        return ImageStatus(state="plain", disk_bytes=total)
    return _status("sealed", lba0, total, name, None)


def _read_mark(journal: FileJournal) -> bytes:
    # Loads numpy, which nothing else here needs: a status is asked often.
    from vmsec.sealing.journal import HotJournal  # noqa: PLC0415 - as said

    return HotJournal(journal).index.sealed_lba0


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
