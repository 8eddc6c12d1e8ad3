"""A holder for key bytes that does not print, compare or pickle by accident.

Python cannot promise to wipe memory (copies made by libraries stay); what can
be wiped here is, see ``doc/source/security/limitations.rst``.
"""

from __future__ import annotations

import hmac
import resource
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from types import TracebackType


def forbid_core_dumps() -> None:
    """Keep this process, and what it starts, from leaving its memory on disk.

    Keys and what was decrypted with them are in it. Called first in every
    program.

    Source:
        getrlimit(2), RLIMIT_CORE; coredumpctl(1) honours it as well.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class SecretBytes:
    """Secret bytes that are shown only by :meth:`reveal`.

    Use as a context manager to wipe them at the end of the block.

    Args:
        value: The secret; it is copied.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = bytearray(value)

    def reveal(self) -> bytes:
        """Return a copy of the secret; keep it as briefly as possible."""
        return bytes(self._value)

    def wipe(self) -> None:
        """Overwrite the secret with zeros; it is empty afterwards."""
        self._value[:] = bytes(len(self._value))
        self._value.clear()

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()
