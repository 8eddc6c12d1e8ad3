"""The disk that is written: a raw file or a block device.

``BlockDevice`` is the Protocol that the engine works on; :class:`FileDevice`
is the one for raw files, block devices, and files that QEMU's storage daemon
exports (:mod:`vmsec.sealing.qemuexport`). The crash tests have another one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Protocol

from vmsec.errors import ImageBusyError, ImageFullError, ImageIOError
from vmsec.ondisk.source import BlockSource, require_inside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLKSSZGET, _BLKGETSIZE64 = 0x1268, 0x80081272


class BlockDevice(BlockSource, Protocol):
    """A disk that can be read, written and made durable.

    Reads see earlier writes. A write is durable only after :meth:`sync`;
    before that a power cut may keep, lose or garble any sector of it.
    """

    @property
    def name(self) -> str:
        """What to call the disk in an error."""
        ...

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from byte ``offset``.

        Raises:
            CorruptImageError: Outside the disk.
            ImageIOError: The device failed.
        """
        ...

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of ``data`` at byte ``offset``.

        Raises:
            ImageFullError: No space.
            ImageIOError: The device failed.
        """
        ...

    def sync(self) -> None:
        """Make every earlier write durable.

        Raises:
            ImageIOError: The device failed; nothing is known to be durable.
        """
        ...

    def prefetch(self, offset: int, length: int) -> None:
        """Be told that a range is read soon (a hint, never fails)."""
        ...

    def data_ranges(self, offset: int, length: int) -> Iterator[Range]:
        """Yield the parts of a range that may hold other than zeros."""
        ...


Range = tuple[int, int]
"""Offset and length in bytes."""


def storage_error(
    op: str, target: str, err: OSError, offset: int | None = None
) -> ImageIOError | ImageFullError:
    """Return the vmsec error for a failed system call."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImageFullError(
            f"{target}: no space left; free some and try again"
        )
    return ImageIOError(op, target, err.strerror or str(err), offset)


class FileDevice:
    """A raw file or block device, opened for reading and writing.

    Args:
        path: The file or device; a symbolic link is refused: links were
            resolved before, and one that is here now was put here since.
        name: What to call it in errors, else its path.
        writable: Whether it is going to be written.

    Raises:
        ImageIOError: It cannot be opened or is neither file nor device.
        ImageBusyError: A block device that is mounted or otherwise held.
    """

    def __init__(
        self, path: Path, *, name: str = "", writable: bool = True
    ) -> None:
        self._name = name or str(path)
        self.path = path
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        flags |= os.O_RDWR if writable else os.O_RDONLY
        try:
            # O_EXCL on a block device: refused while it is mounted.
            exclusive = writable and stat.S_ISBLK(path.lstat().st_mode)
            self._fd = os.open(path, flags | (exclusive and os.O_EXCL))
        except OSError as err:
            if err.errno == errno.EBUSY:
                raise ImageBusyError(
                    f"{self._name}: mounted or held by the kernel; unmount it"
                ) from err
            raise storage_error("open", self._name, err) from err
        try:
            self._measure()
        except OSError as err:
            os.close(self._fd)
            raise storage_error("open", self._name, err) from err
        self._data = (0, 0)  # the data range that was found last

    def _measure(self) -> None:
        mode = os.fstat(self._fd).st_mode
        self.is_block = stat.S_ISBLK(mode)
        if self.is_block:
            self._size = self._ioctl(_BLKGETSIZE64, "Q")
            self._sector = self._ioctl(_BLKSSZGET, "I")
        elif stat.S_ISREG(mode):
            self._size, self._sector = os.fstat(self._fd).st_size, 512
        else:
            raise OSError(errno.EINVAL, "neither a file nor a block device")

    def _ioctl(self, request: int, form: str) -> int:
        answer = fcntl.ioctl(self._fd, request, bytes(8))
        return int(struct.unpack_from(form, answer)[0])

    @property
    def name(self) -> str:
        """What to call the disk in an error."""
        return self._name

    @property
    def size_bytes(self) -> int:
        """Length of the disk in bytes."""
        return self._size

    @property
    def sector_bytes(self) -> int:
        """Logical sector size in bytes (512 for files)."""
        return self._sector

    def fileno(self) -> int:
        """Return the descriptor, for locks."""
        return self._fd

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes."""
        require_inside(self._size, offset, length)
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as err:
            raise storage_error("read", self._name, err, offset) from err
        if len(data) == length:
            return data
        whole = bytearray(length)
        self.read_into(offset, memoryview(whole))
        return bytes(whole)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from byte ``offset``."""
        require_inside(self._size, offset, len(view))
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as err:
                raise storage_error("read", self._name, err, offset) from err
            if not got:
                raise ImageIOError(
                    "read", self._name, "the disk was truncated", offset
                )
            done += got

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of ``data``; never beyond the end of the disk."""
        require_inside(self._size, offset, len(data))
        view = memoryview(data)
        while view:
            try:
                put = os.pwrite(self._fd, view, offset)
            except OSError as err:
                raise storage_error("write", self._name, err, offset) from err
            view, offset = view[put:], offset + put

    def sync(self) -> None:
        """Make every earlier write durable."""
        try:
            os.fdatasync(self._fd)
        except OSError as err:
            raise storage_error("sync", self._name, err) from err

    def prefetch(self, offset: int, length: int) -> None:
        """Tell the kernel that a range is read soon (a hint, never fails)."""
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def data_ranges(self, offset: int, length: int) -> Iterator[Range]:
        """Yield the parts of a range that are no holes.

        What was found to be data stays data while the image is locked, so
        sorted questions cost one look-up for every run of data.
        """
        position, end = offset, offset + length
        if self._data[0] <= offset and end <= self._data[1]:
            yield offset, length
            return
        while position < end and not self.is_block:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
                stop = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as err:
                if err.errno == errno.ENXIO:  # only a hole from here on
                    return
                break  # not supported here: everything may be data
            self._data = (start, stop)
            if start >= end:
                return
            yield start, min(stop, end) - start
            position = stop
        if position < end:
            yield position, end - position

    def close(self) -> None:
        """Close the disk; the image lock goes with it."""
        os.close(self._fd)
