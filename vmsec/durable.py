"""Small files that survive a crash: whole and old, or whole and new.

Every small file that vmsec keeps (key blobs, pins, manifests, marks) is
written here and nowhere else. A file is first written beside its final name,
then synced, then renamed over it, and the directory is synced last.

Invariants:
    1. Under the final name there is never a partial file.
    2. When :func:`write_durable` returns, a power cut loses nothing.
    3. A symbolic link under the final name is replaced, never followed.

Source:
    DESIGN section 3.7; open(2), rename(2), fsync(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from vmsec.errors import ImageFullError, ImageIOError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file so that it is whole, old or new, after any crash.

    Args:
        path: The file; it is replaced if it exists, its directory must exist.
        data: All that the file will hold.
        mode: Its permissions, whatever the umask is.

    Raises:
        ImageFullError: No space or quota left; the old file is untouched.
        ImageIOError: Anything else the system refused.

    Crash:
        Before the rename the old file (or none) is there, after it the new
        one. A file ``.NAME.XXXX.tmp`` may be left and can be removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _named(path, "write"):
        try:
            _write_new(temporary, data, mode)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    sync_directory(path.parent)


def remove_durable(path: Path) -> None:
    """Remove a file, so that it stays removed; none there is no error.

    Raises:
        ImageIOError: The system refused.

    Crash:
        The file is there or is not; run again safely.
    """
    with _named(path, "remove"):
        path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        ImageIOError: The system refused.
    """
    with _named(directory, "sync"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Create, fill and sync a file that must not exist yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)  # not fdatasync: the mode counts as well
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path, op: str) -> Iterator[None]:
    """Turn an OSError into ours, naming the file."""
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            raise ImageFullError(
                f"{path}: no space left ({err.strerror}); free some and retry"
            ) from err
        raise ImageIOError(op, str(path), err.strerror or str(err)) from err
