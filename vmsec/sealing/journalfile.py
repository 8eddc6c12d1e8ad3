"""A journal in the file system: beside the image, or in a state directory."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from vmsec.errors import ImageFullError
from vmsec.sealing.device import storage_error

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".vmsec-journal"


def journal_path(image: Path, directory: Path | None) -> Path:
    """Return where the journal of an image lies.

    Beside a file, so that another host with the same storage can recover it;
    in ``directory`` if one is given (block devices need one), under a name
    made from the image's path.
    """
    if directory is None:
        return image.with_name(image.name + SUFFIX)
    digest = hashlib.sha256(os.fsencode(image)).hexdigest()[:16]
    return directory / f"{image.name}-{digest}{SUFFIX}"


class FileJournal:
    """One journal; the caller holds the image lock, so nobody else writes it.

    Args:
        path: Its final name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(path.name + ".draft")
        self._fd = -1

    @property
    def name(self) -> str:
        """What to call the journal in an error."""
        return str(self.path)

    def exists(self) -> bool:
        """Whether a published journal is there.

        Raises:
            ImageIOError: It cannot be found out; never read as "no".
        """
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError as err:
            raise storage_error("open", self.name, err) from err
        return True

    def create_draft(self, expected_bytes: int) -> None:
        """Begin a draft in an own file, mode 0600."""
        self.discard_draft()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            room = os.statvfs(self.path.parent)
            if room.f_bavail * room.f_frsize < expected_bytes:
                raise ImageFullError(
                    f"{self.path.parent}: the journal needs "
                    f"{expected_bytes >> 20} MiB; free some and try again"
                )
            self._fd = os.open(self._draft, flags | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise storage_error("open", str(self._draft), err) from err

    def write_draft(self, offset: int, data: memoryview | bytes) -> None:
        """Write into the draft."""
        view = memoryview(data)
        while view:
            try:
                put = os.pwrite(self._fd, view, offset)
            except OSError as err:
                raise storage_error("write", str(self._draft), err) from err
            view, offset = view[put:], offset + put

    def read_draft(self, offset: int, length: int) -> bytes:
        """Read back from the draft, also after it was published."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as err:
            raise storage_error("read", self.name, err) from err

    def sync_draft(self) -> None:
        """Make the draft's content durable."""
        try:
            os.fdatasync(self._fd)
        except OSError as err:
            raise storage_error("sync", str(self._draft), err) from err

    def publish(self) -> None:
        """Rename the draft to its final name and sync the directory."""
        try:
            self._draft.rename(self.path)
            self._sync_directory()
        except OSError as err:
            raise storage_error("sync", self.name, err) from err

    def discard_draft(self) -> None:
        """Remove the draft, if there is one."""
        self._close()
        try:
            self._draft.unlink(missing_ok=True)
        except OSError as err:
            raise storage_error("open", str(self._draft), err) from err

    def read(self, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes of the published journal."""
        try:
            return os.pread(self._opened(), length, offset)
        except OSError as err:
            raise storage_error("read", self.name, err) from err

    def _opened(self) -> int:
        """Return the descriptor of the published journal.

        Whoever may write beside the image may have put a FIFO there: it is
        neither followed nor waited for.
        """
        if self._fd < 0:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self.path, flags)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
        return self._fd

    def sync_published(self) -> None:
        """Make the published journal and its name durable."""
        try:
            os.fdatasync(self._opened())
            self._sync_directory()
        except OSError as err:
            raise storage_error("sync", self.name, err) from err

    def remove(self) -> None:
        """Remove the published journal and sync the directory."""
        self._close()
        try:
            self.path.unlink(missing_ok=True)  # J5
            self._sync_directory()  # J6
        except OSError as err:
            raise storage_error("sync", self.name, err) from err

    def _sync_directory(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = os.open(self.path.parent, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
