"""Opening images: which device, which lock, which journal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from vmsec.errors import (
    ConfigurationError,
    ImageIOError,
    UnsupportedFormatError,
)
from vmsec.sealing.device import FileDevice, storage_error
from vmsec.sealing.imagelock import acquire_image_lock
from vmsec.sealing.journalfile import FileJournal, journal_path
from vmsec.sealing.model import FORMATS, RAW, ImageRef
from vmsec.sealing.qemuexport import qemu_export

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.sealing.model import SealSettings

MIN_DISK_BYTES = 64 << 10
"""Smaller disks hold no file system that boots; they are refused."""


def resolve(image: ImageRef) -> ImageRef:
    """Follow symbolic links once, so that the journal lies by the real file.

    Raises:
        ImageIOError: There is no such file.
        UnsupportedFormatError: A format that is not known.
    """
    if image.format not in FORMATS:
        raise UnsupportedFormatError(
            f"{image.path}: format {image.format!r} is not supported; use "
            f"one of {', '.join(FORMATS)}"
        )
    try:
        return ImageRef(Path(image.path).resolve(strict=True), image.format)
    except (OSError, RuntimeError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ImageIOError("open", str(image.path), reason) from err


@contextlib.contextmanager
def open_device(image: ImageRef, *, writable: bool) -> Iterator[FileDevice]:
    """Open the guest-visible disk of a resolved image.

    Writable, the exclusive image lock is held to the end of the block (I7).

    Raises:
        ImageBusyError: QEMU or another process uses it.
        ImageIOError: It cannot be opened.
    """
    if image.format != RAW:
        with qemu_export(image, writable=writable) as device:
            yield device
        return
    device = FileDevice(image.path, writable=writable)
    try:
        if writable:
            acquire_image_lock(device.fileno(), target=device.name)
        yield device
    finally:
        device.close()


def open_journal(image: ImageRef, settings: SealSettings) -> FileJournal:
    """Return the journal of a resolved image.

    Raises:
        ConfigurationError: A block device, and no journal directory is set.
    """
    directory = settings.journal_directory
    try:
        is_block = image.path.is_block_device()
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise storage_error("open", str(image.path), err) from err
    if is_block and directory is None:
        raise ConfigurationError(
            f"{image.path}: the journal of a block device needs a directory; "
            "set one (--journal-dir, [sealing] journal_directory)"
        )
    return FileJournal(journal_path(image.path, directory))
