"""The manifest of an offline seal, in a file beside the image.

It is written before the image is touched and removed again where the sealed
disk itself holds the manifest; so it stays only where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.durable import remove_durable, write_durable
from vmsec.sealing.device import storage_error
from vmsec.sealing.journalfile import SUFFIX as JOURNAL_SUFFIX
from vmsec.sealing.journalfile import journal_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmsec.sealing.model import ImageRef, SealSettings

SUFFIX = ".vmsec-manifest"

MAX_MANIFEST_BYTES = 64 << 20
"""As many bytes as the extents of a 16 TiB disk need, and some."""


class BesideManifestStore:
    """Keeps one manifest: that of the image's only seal.

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
        """Write the manifest.

        Raises:
            ImageFullError: No space.
            ImageIOError: It could not be made durable.

        Crash:
            The file is whole or not there; it does no harm if the seal that
            follows never happens.
        """
        write_durable(self.path, blob)

    def candidates(self) -> Iterator[bytes]:
        """Yield the manifest, if there is one."""
        try:
            with self.path.open("rb") as stream:
                yield stream.read(MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return
        except OSError as err:
            raise storage_error("read", str(self.path), err) from err

    def discard(self) -> None:
        """Remove the manifest: the disk holds it, or is plain."""
        remove_durable(self.path)
