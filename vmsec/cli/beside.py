"""The manifest of an offline seal, in a file beside the image.

It is written before the image is touched and removed again where the sealed
disk itself holds the manifest; so it stays only where it is needed.

The file has the image's name, but images are moved and replaced: a manifest
of another disk, whose only copy it may be, is never overwritten or removed.
It is set aside under a name with that disk's identity, and still found.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from vmsec.durable import remove_durable, sync_directory, write_durable
from vmsec.errors import ManifestError
from vmsec.sealing.device import storage_error
from vmsec.sealing.journalfile import SUFFIX as JOURNAL_SUFFIX
from vmsec.sealing.journalfile import journal_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from vmsec.sealing.model import ImageRef, SealSettings

SUFFIX = ".vmsec-manifest"

MAX_MANIFEST_BYTES = 1 << 30
"""As :data:`vmsec.sealing.header.MAX_MANIFEST_BYTES`: what is read back is
never less than what was written."""


class BesideManifestStore:
    """Keeps the manifest of the image's only seal.

    Args:
        image: The image; for a block device the file lies in the journal
            directory, because its own directory forgets at a reboot.
        settings: Where journals lie.
    """

    def __init__(self, image: ImageRef, settings: SealSettings) -> None:
        real = image.path.resolve()
        directory = settings.journal_directory
        journal = journal_path(
            real, directory if real.is_block_device() else None
        )
        self.path: Path = journal.with_name(
            journal.name.removesuffix(JOURNAL_SUFFIX) + SUFFIX
        )

    def save(self, blob: bytes) -> None:
        """Write the manifest; one of another disk is set aside first.

        Raises:
            ImageFullError: No space.
            ImageIOError: It could not be made durable.

        Crash:
            The file is whole or not there; it does no harm if the seal that
            follows never happens.
        """
        there = _disk_of(self.path)
        if there not in (None, _disk_in(blob)):
            self._set_aside(there)
        write_durable(self.path, blob)

    def candidates(self) -> Iterator[bytes]:
        """Yield the manifest, if there is one, and those set aside."""
        stem = self.path.name.removesuffix(SUFFIX)
        aside = self.path.parent.glob(f"{glob.escape(stem)}.*{SUFFIX}")
        for path in (self.path, *sorted(aside)):
            blob = _read(path)
            if blob is not None:
                yield blob

    def discard(self, disk: UUID) -> None:
        """Remove a disk's manifest: the disk holds it itself, or is plain."""
        for path in (self.path, self._aside(disk)):
            if _disk_of(path) == disk:
                remove_durable(path)

    def _aside(self, disk: UUID | None) -> Path:
        stem = self.path.name.removesuffix(SUFFIX)
        return self.path.with_name(f"{stem}.{disk}{SUFFIX}")

    def _set_aside(self, disk: UUID | None) -> None:
        try:
            self.path.rename(self._aside(disk))
        except OSError as err:
            raise storage_error("write", str(self.path), err) from err
        sync_directory(self.path.parent)


def _read(path: Path) -> bytes | None:
    """Return what a file holds; None if there is none."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise storage_error("read", str(path), err) from err


def _disk_of(path: Path) -> UUID | None:
    """Return whose manifest a file is; None if it is none."""
    blob = _read(path)
    return None if blob is None else _disk_in(blob)


def _disk_in(blob: bytes) -> UUID | None:
    # The reader loads numpy, for which 'vmsec image --help' has no use.
    from vmsec.sealing.manifest import read_context

    try:
        return read_context(blob).disk
    except ManifestError:
        return None
