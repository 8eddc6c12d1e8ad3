"""The node's copies of a disk's manifests, with the KMC's as the last resort.

The sealed disk usually holds its manifest itself; these are the second and
third copy (DESIGN 3.5). They are encrypted under the VM key.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vmsec.agent.state import read_limited
from vmsec.durable import remove_durable, write_durable
from vmsec.errors import VmsecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

LOG = logging.getLogger(__name__)

KEPT = 3
"""How many manifests of a disk are kept: that of the last seal, and those to
which a reverted resize or a restored backup may go back."""

MAX_MANIFEST_BYTES = 1 << 30
"""As :data:`vmsec.sealing.header.MAX_MANIFEST_BYTES`."""


class NodeManifests:
    """The manifests of one disk (the engine's ``ManifestStore``).

    Args:
        directory: Where they lie; it must exist before :meth:`save`.
        disk: The disk's identity.
        fetch: Asks the KMC for its copy; may raise any ``VmsecError``.
    """

    def __init__(
        self, directory: Path, disk: UUID, fetch: Callable[[], bytes]
    ) -> None:
        self._directory, self._fetch = directory, fetch
        self._prefix = f"manifest.{disk}."

    def save(self, blob: bytes) -> None:
        """Keep a manifest durably, and the ones of the last seals.

        Raises:
            ImageFullError: No space.
            ImageIOError: The directory cannot be written.
        """
        kept = self._numbers()
        number = kept[-1] + 1 if kept else 1
        write_durable(self._path(number), blob)
        for old in [*kept, number][:-KEPT]:
            remove_durable(self._path(old))

    def candidates(self) -> Iterator[bytes]:
        """Yield the manifests, the latest first, at last the KMC's copy."""
        for number in reversed(self._numbers()):
            blob = read_limited(self._path(number), MAX_MANIFEST_BYTES)
            if blob:
                yield blob
        try:
            blob = self._fetch()
        except VmsecError as err:
            LOG.warning("no manifest from the KMC: %s", err)
            return
        if blob:
            yield blob

    def _numbers(self) -> list[int]:
        """List the numbers of the kept manifests, in order."""
        if not self._directory.is_dir():
            return []
        names = (path.name for path in self._directory.iterdir())
        tails = (
            name.removeprefix(self._prefix)
            for name in names
            if name.startswith(self._prefix)
        )
        return sorted(int(tail) for tail in tails if tail.isdecimal())

    def _path(self, number: int) -> Path:
        """Return the file of a number."""
        return self._directory / f"{self._prefix}{number}"
