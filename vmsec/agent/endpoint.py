"""What other services may ask of this node over the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import oslo_messaging

from vmsec.errors import SchemaError
from vmsec.keysync.messages import RPC_VERSION, AgentJob
from vmsec.keysync.transport import EXCHANGE, rpc_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.agent.operation import Operations
    from vmsec.agent.selftest import SelfTest


class AgentEndpoint:
    """The agent's methods.

    Args:
        operations: Does the manual operations.
        selftest: Examines this node.
        srk_public: Tells the SRK of this node's TPM.
    """

    target = oslo_messaging.Target(exchange=EXCHANGE, version=RPC_VERSION)

    def __init__(
        self,
        operations: Operations,
        selftest: SelfTest,
        srk_public: Callable[[], bytes],
    ) -> None:
        self._operations, self._selftest = operations, selftest
        self._srk_public = srk_public

    @rpc_method
    def vm_seal(self, *, vm: str) -> AgentJob:
        """Seal the disks of a VM that is off."""
        return self._operations.seal(_uuid(vm))

    @rpc_method
    def vm_unseal(self, *, vm: str) -> AgentJob:
        """Unseal the disks of a VM that is off."""
        return self._operations.unseal(_uuid(vm))

    @rpc_method
    def vm_rekey(self, *, vm: str) -> AgentJob:
        """Re-encrypt the disks of a VM under its newest key version."""
        return self._operations.rekey(_uuid(vm))

    @rpc_method
    def self_test(self) -> dict[str, str | int | bool | None]:
        """Examine this node; see :class:`vmsec.agent.selftest.SelfTest`."""
        return self._selftest.run()

    @rpc_method
    def node_identity(self) -> bytes:
        """Tell the node's SRK, a marshalled TPM2B_PUBLIC, to enrol it by."""
        return self._srk_public()


def _uuid(text: str) -> UUID:
    """Read a VM's UUID from a message: the canonical text only."""
    try:
        value = UUID(text)
    except ValueError as err:
        raise SchemaError("vm: not a UUID") from err
    if str(value) != text:
        raise SchemaError("vm: not a UUID in lower case with dashes")
    return value
