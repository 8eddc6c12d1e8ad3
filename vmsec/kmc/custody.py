"""What the KMC asks of whatever keeps its keys (:mod:`vmsec.tpm`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vmsec.tpm.blob import MigratedKey, SealedKey


class KeyCustody(Protocol):
    """Makes VM keys and sends them to nodes; none is ever seen in clear."""

    def create_key(self) -> SealedKey:
        """Make a new VM key, usable only by this custody."""
        ...

    def migrate(
        self, sealed: SealedKey, node_srk_public: bytes
    ) -> MigratedKey:
        """Encrypt a VM key to one node's SRK.

        Args:
            sealed: Made by :meth:`create_key`.
            node_srk_public: The node's SRK, a marshalled TPM2B_PUBLIC.
        """
        ...
