"""The VM keys that this node's TPM holds.

A grant of the KMC is imported into the TPM once and kept as a blob that only
this TPM opens. The key itself never leaves the TPM: what is in memory, for the
moment of a seal or unseal, is the disk key that the TPM derives from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.agent.state import KeyState
from vmsec.errors import UnknownKeyError
from vmsec.tpm.blob import MigratedKey, NodeKey

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from vmsec.agent.state import NodeState
    from vmsec.keysync.messages import KeyGrant
    from vmsec.secret import SecretBytes
    from vmsec.tpm.custody import NodeCustody


class NodeKeys:
    """Imports grants, and opens keys for the sealing engine.

    Args:
        custody: This node's TPM.
        state: Where the imported blobs are kept.
    """

    def __init__(self, custody: NodeCustody, state: NodeState) -> None:
        self._custody, self._state = custody, state

    def adopt(self, vm: UUID, grants: Iterable[KeyGrant]) -> None:
        """Import the grants that this TPM does not hold yet.

        Args:
            vm: Whose keys they are; the VM must have been saved before.
            grants: As the KMC sent them; those of another VM are ignored.

        Raises:
            TPMError: The TPM refused one, or does not answer.
        """
        srk = self._custody.srk_public()
        for grant in grants:
            held = self._state.load_key(vm, grant.version)
            # A key imported under another SRK is that of a replaced TPM.
            if grant.vm != str(vm) or (held and held.srk_public == srk):
                continue
            key = self._custody.import_key(
                MigratedKey(
                    public=grant.public,
                    duplicate=grant.duplicate,
                    seed=grant.seed,
                    approval=grant.approval,
                    approval_public=grant.approval_public,
                )
            )
            self._state.save_key(
                KeyState(
                    vm=vm,
                    version=grant.version,
                    srk_public=srk,
                    public=key.public,
                    private=key.private,
                    approval=key.approval,
                    approval_public=key.approval_public,
                )
            )

    def held(self, vm: UUID) -> tuple[int, ...]:
        """Return the key versions of a VM that this very TPM holds."""
        srk = self._custody.srk_public()
        return tuple(
            key.version
            for key in self._state.keys(vm)
            if key.srk_public == srk
        )

    def open(self, vm: UUID, version: int) -> SecretBytes:
        """Have the TPM derive a VM's disk key (the engine's ``KeySource``).

        Raises:
            UnknownKeyError: This node does not hold it.
            TPMError: The TPM refused, or does not answer.
        """
        held = self._state.load_key(vm, version)
        if held is None:
            raise UnknownKeyError(
                f"key version {version} of VM {vm} is not on this node; it "
                "comes from the key-management centre at a start"
            )
        return self._custody.unseal(
            NodeKey(
                public=held.public,
                private=held.private,
                approval=held.approval,
                approval_public=held.approval_public,
            ),
            key_context(vm, version),
        )


def key_context(vm: UUID, version: int) -> bytes:
    """Return what a disk key is derived for: 24 bytes, the same everywhere."""
    return vm.bytes + version.to_bytes(8, "big")
