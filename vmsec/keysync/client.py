"""Typed clients of the KMC and of the agents.

Every method is one call over the bus and may be repeated: the services are
idempotent. Errors are :class:`~vmsec.errors.PeerTimeoutError` (nobody
answered), :class:`~vmsec.errors.RemoteRefusedError` (the service said no; its
``remote_code`` says why) and :class:`~vmsec.errors.SyncError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import oslo_messaging
from oslo_log import log

from vmsec.errors import (
    PeerTimeoutError,
    RemoteBusyError,
    RemoteRefusedError,
    SchemaError,
    SyncError,
)
from vmsec.keysync import wire
from vmsec.keysync.deadline import Deadline
from vmsec.keysync.messages import (
    AGENT_TOPIC,
    KMC_TOPIC,
    RPC_VERSION,
    AcquireAnswer,
    AgentJob,
    DiskReport,
    KeyRecord,
    NodeRecord,
    VMRecord,
)
from vmsec.keysync.transport import EXCHANGE

LOG = log.getLogger(__name__)
T = TypeVar("T")

GRACE_SECONDS = 2.0
"""What the library may take beyond its own timeout before we give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """The ``error`` of an answer."""

    code: str
    message: str
    status: int
    retryable: bool


class _Client:
    """One peer, called by method name with typed arguments."""

    def __init__(
        self,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        target: oslo_messaging.Target,
        *,
        peer: str,
        hint: str,
        timeout_seconds: float,
    ) -> None:
        self._peer, self._hint = peer, hint
        self._seconds = timeout_seconds
        self._deadline = Deadline(peer, timeout_seconds + GRACE_SECONDS)
        self._rpc = oslo_messaging.get_rpc_client(
            transport, target, timeout=timeout_seconds, retry=1
        )

    def _call(self, method: str, kind: type[T], **arguments: object) -> T:
        """Call the peer and decode its answer, or raise its refusal."""
        encoded = {
            name: wire.encode(value, what=f"{method} {name}")
            for name, value in arguments.items()
        }
        answer = self._exchange(method, encoded)
        if not isinstance(answer, dict) or len(answer) != 1:
            raise SchemaError(f"{self._peer}: {method}: not an answer")
        if "error" in answer:
            raise self._refusal(method, answer["error"])
        if "result" not in answer:
            raise SchemaError(f"{self._peer}: {method}: not an answer")
        return wire.decode(kind, answer["result"], what=f"{method} result")

    def _exchange(self, method: str, arguments: dict[str, Any]) -> object:
        """Send the request and wait for the answer."""
        try:
            return self._deadline.run(
                lambda: self._rpc.call({}, method, **arguments)
            )
        except oslo_messaging.MessagingTimeout as err:
            raise PeerTimeoutError(
                f"{self._peer} did not answer {method} in "
                f"{self._seconds:g} s; {self._hint}"
            ) from err
        except PeerTimeoutError:
            raise
        except Exception as err:
            # The drivers raise their libraries' own errors (kombu, amqp,
            # OSError), and the far end's that came before the endpoint.
            LOG.debug("%s: %s failed", self._peer, method, exc_info=True)
            raise SyncError(
                f"{self._peer}: {method} could not be delivered "
                f"({type(err).__name__}); {self._hint}"
            ) from err

    def _refusal(self, method: str, value: object) -> RemoteRefusedError:
        """Turn the error of an answer into ours."""
        what = f"{self._peer}: {method} error"
        refusal = wire.decode(_Refusal, value, what=what)
        kind = RemoteBusyError if refusal.retryable else RemoteRefusedError
        return kind(refusal.code, refusal.message, refusal.status)


class KMCClient(_Client):
    """The key-management centre, as agents, controller and API call it.

    Args:
        transport: Made by :func:`~vmsec.keysync.transport.open_transport`.
        timeout_seconds: How long to wait for each answer.
    """

    def __init__(
        self,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        timeout_seconds: float,
    ) -> None:
        super().__init__(
            transport,
            oslo_messaging.Target(
                exchange=EXCHANGE, topic=KMC_TOPIC, version=RPC_VERSION
            ),
            peer="key-management centre",
            hint="check that vmsec-kmc runs and uses the same transport_url",
            timeout_seconds=timeout_seconds,
        )

    def node_enroll(
        self, name: str, srk_public: bytes, *, clear: bool = False
    ) -> NodeRecord:
        """Enroll a node by its SRK, the marshalled TPM2B_PUBLIC.

        Args:
            name: The node's name, as its agent calls itself.
            srk_public: The public part of the node's SRK.
            clear: Replace the TPM to which this name was pinned before.
        """
        return self._call(
            "node_enroll",
            NodeRecord,
            name=name,
            srk_public=srk_public,
            clear=clear,
        )

    def node_list(self) -> tuple[NodeRecord, ...]:
        """List all nodes, by name."""
        return self._call("node_list", tuple[NodeRecord, ...])

    def vm_protect(
        self,
        vm: str,
        *,
        name: str,
        project: str,
        level: str,
        node: str | None = None,
    ) -> VMRecord:
        """Protect a VM from its next stop on; it gets its key now."""
        return self._call(
            "vm_protect",
            VMRecord,
            vm=vm,
            name=name,
            project=project,
            level=level,
            node=node,
        )

    def vm_list(self) -> tuple[VMRecord, ...]:
        """List all protected VMs, by name."""
        return self._call("vm_list", tuple[VMRecord, ...])

    def vm_show(self, vm: str) -> VMRecord:
        """Show one protected VM."""
        return self._call("vm_show", VMRecord, vm=vm)

    def vm_place(self, vm: str, node: str | None) -> VMRecord:
        """Tell where the cloud's controller has placed a VM.

        Placed nowhere (``None``), it goes to the node that starts it next.
        """
        return self._call("vm_place", VMRecord, vm=vm, node=node)

    def key_list(self, vm: str | None = None) -> tuple[KeyRecord, ...]:
        """List the key versions of one VM, or of all."""
        return self._call("key_list", tuple[KeyRecord, ...], vm=vm)

    def key_show(self, vm: str, version: int | None = None) -> KeyRecord:
        """Show one key version, by default the active one."""
        return self._call("key_show", KeyRecord, vm=vm, version=version)

    def key_rotate(self, vm: str) -> KeyRecord:
        """Make a new active key version; the old one still unseals."""
        return self._call("key_rotate", KeyRecord, vm=vm)

    def acquire(
        self, node: str, vm: str, request_id: str, held: tuple[int, ...] = ()
    ) -> AcquireAnswer:
        """Ask for the keys of a VM that this node is about to start.

        Args:
            node: The node that asks.
            vm: The VM.
            request_id: Names this request in both services' logs.
            held: Key versions that the node's TPM holds already.
        """
        return self._call(
            "acquire",
            AcquireAnswer,
            node=node,
            vm=vm,
            request_id=request_id,
            held=held,
        )

    def report(self, node: str, report: DiskReport) -> None:
        """Report what this node did to a disk; the lease ends with a seal."""
        self._call("report", type(None), node=node, report=report)

    def vm_leave(self, node: str, vm: str) -> None:
        """Say that a VM migrated live away from this node."""
        self._call("vm_leave", type(None), node=node, vm=vm)

    def manifest_get(
        self, node: str, vm: str, disk: str, generation: int | None = None
    ) -> bytes:
        """Fetch a kept manifest, by default that of the last seal."""
        return self._call(
            "manifest_get",
            bytes,
            node=node,
            vm=vm,
            disk=disk,
            generation=generation,
        )


class AgentClient(_Client):
    """The agent of one node.

    Args:
        transport: Made by :func:`~vmsec.keysync.transport.open_transport`.
        node: The node's name.
        timeout_seconds: How long to wait for each answer; sealing takes
            as long as it takes, so give it minutes.
    """

    def __init__(
        self,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        node: str,
        timeout_seconds: float,
    ) -> None:
        super().__init__(
            transport,
            oslo_messaging.Target(
                exchange=EXCHANGE,
                topic=AGENT_TOPIC,
                server=node,
                version=RPC_VERSION,
            ),
            peer=f"agent of node {node}",
            hint="check that vmsec-agent runs there under this name",
            timeout_seconds=timeout_seconds,
        )

    def vm_seal(self, vm: str) -> AgentJob:
        """Seal the disks of a stopped VM now."""
        return self._call("vm_seal", AgentJob, vm=vm)

    def vm_unseal(self, vm: str) -> AgentJob:
        """Unseal the disks of a stopped VM, for rescue work."""
        return self._call("vm_unseal", AgentJob, vm=vm)

    def vm_rekey(self, vm: str) -> AgentJob:
        """Re-encrypt the sealed disks of a stopped VM under the new key."""
        return self._call("vm_rekey", AgentJob, vm=vm)

    def self_test(self) -> dict[str, str | int | bool | None]:
        """Ask the agent how it is: findings by name."""
        return self._call("self_test", dict[str, str | int | bool | None])

    def node_identity(self) -> bytes:
        """Ask for the node's SRK, the marshalled TPM2B_PUBLIC."""
        return self._call("node_identity", bytes)
