"""The image lock: the same OFD lock bytes that QEMU takes.

QEMU locks one byte for every permission that it uses (100 + i) and one for
every permission that it does not share (200 + i). Holding the bytes of a
reader and writer that shares neither writing nor resizing keeps a QEMU, a
``qemu-img convert`` or a second vmsec out, and tells when one is in. The
kernel drops the locks with the descriptor, also after ``kill -9``.

Source:
    QEMU block/file-posix.c (RAW_LOCK_PERM_BASE, raw_check_lock_bytes);
    fcntl(2), "Open file description locks".
"""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import Final

from vmsec.errors import ImageBusyError, ImageIOError

_PERM_BASE, _UNSHARED_BASE = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_USED: Final = (_READ, _WRITE, _RESIZE)
_UNSHARED: Final = (_WRITE, _RESIZE)
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
_FLOCK = struct.Struct("hhqqi4x")


def _flock(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, 0, byte, 1, 0)


def acquire_image_lock(fd: int, *, target: str) -> None:
    """Take QEMU's lock bytes on an open image, or refuse at once.

    The lock lasts until ``fd`` (and every copy of it) is closed.

    Args:
        fd: Descriptor of the image, open for reading and writing.
        target: The image's name, for the error.

    Raises:
        ImageBusyError: QEMU, one of its tools or another vmsec uses it.
        ImageIOError: The file system cannot lock.
    """
    mine = [_PERM_BASE + bit for bit in _USED]
    mine += [_UNSHARED_BASE + bit for bit in _UNSHARED]
    try:
        for byte in mine:
            fcntl.fcntl(fd, _F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte))
        others = [_UNSHARED_BASE + bit for bit in _USED]
        others += [_PERM_BASE + bit for bit in _UNSHARED]
        for byte in others:
            _require_free(fd, byte, target)
    except OSError as err:
        if err.errno in (errno.EAGAIN, errno.EACCES):
            raise _busy(target) from err
        raise ImageIOError("lock", target, err.strerror or str(err)) from err


def _require_free(fd: int, byte: int, target: str) -> None:
    answer = fcntl.fcntl(fd, _F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
        raise _busy(target)


def _busy(target: str) -> ImageBusyError:
    return ImageBusyError(
        f"{target}: in use by QEMU or another process; stop the VM or wait"
    )
