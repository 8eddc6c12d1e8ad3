"""Make the n-th system call on files fail, below everything vmsec does."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

CALLS = (
    "open", "stat", "lstat", "fstat", "statvfs", "lseek", "pread", "preadv",
    "pwrite", "fdatasync", "fsync", "rename", "unlink", "mkdir", "write",
    "replace", "fchmod",
)  # fmt: skip


class FailingCalls:
    """Counts calls and fails the n-th, or all from the n-th on.

    Args:
        patch: Puts the functions of ``os`` back.
        number: Which call fails, from 0; none if negative.
        code: With which ``errno``.
        lasting: Whether all later calls fail as well (a dead disk).
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        number: int,
        code: int,
        *,
        lasting: bool,
    ) -> None:
        self.count = 0
        self.failed = ""
        self.written_after = 0
        self._number, self._code, self._lasting = number, code, lasting
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            number, self.count = self.count, self.count + 1
            if number == self._number or (self.failed and self._lasting):
                self.failed = self.failed or name
                raise OSError(self._code, os.strerror(self._code))
            if self.failed and name == "pwrite":
                self.written_after += 1
            return real(*args, **kwargs)

        return call


ERRORS = (errno.EIO, errno.ENOSPC)
