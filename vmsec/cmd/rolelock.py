"""One process per role and state directory.

Two KMCs on one database with one software TPM, or two agents on one node,
would work against each other; so a second copy refuses to start. A role is
``kmc``, ``agent``, ``controller`` or ``api``; vmsec-allinone has all four.
Each role has a directory of its own below the state directory, for the user
of its service only, and its lock lies there.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class RoleLock:
    """Locks of roles, held until they are released or the process ends.

    Args:
        state_directory: The state that must not be shared; it is made
            if need be.
        roles: The roles to take.

    Crash:
        The kernel lets go of the locks; the files stay and do no harm.
    """

    def __init__(self, state_directory: Path, roles: Iterable[str]) -> None:
        self._directory, self._roles = state_directory, tuple(roles)
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        """Take all locks.

        Raises:
            ConfigurationError: Another process has one of them.
        """
        try:
            for role in self._roles:
                self._take(role)
        except OSError as err:
            self.__exit__()
            raise ConfigurationError(
                f"state_path {self._directory}: {err.strerror}"
            ) from err
        except ConfigurationError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release all locks."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _take(self, role: str) -> None:
        path = self._directory / role / "lock"
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise ConfigurationError(
                f"state_path {self._directory}: the {role} of it is running "
                f"already (process {pid}); stop that one, or give this one "
                "another state_path"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
