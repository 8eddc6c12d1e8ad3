"""Trust on first use: a public area in a file, compared ever after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.durable import write_durable
from vmsec.errors import ConfigurationError, TPMIdentityError

if TYPE_CHECKING:
    from pathlib import Path


class Pin:
    """One pinned public key.

    Args:
        path: The file; its directory must exist.
        what: Whose key it is, for the operator.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def read(self) -> bytes | None:
        """Return the pinned key, or ``None`` before the first use.

        Raises:
            ConfigurationError: The file is there and cannot be read.
        """
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise ConfigurationError(
                f"{self._path}: cannot read the pin: {err.strerror}"
            ) from err

    def verify(self, public: bytes) -> None:
        """Pass if the key is the pinned one, or none is pinned yet.

        Raises:
            TPMIdentityError: Another key is pinned.
        """
        pinned = self.read()
        if pinned is not None and pinned != public:
            raise TPMIdentityError(
                f"{self._what} is not the one pinned in {self._path}; if it "
                "was replaced on purpose, remove that file"
            )

    def require(self, public: bytes) -> None:
        """Pin the key at the first use; later let only that key pass.

        Raises:
            TPMIdentityError: Another key is pinned.

        Crash:
            The pin is there whole or not at all.
        """
        self.verify(public)
        if self.read() is None:
            write_durable(self._path, public)
