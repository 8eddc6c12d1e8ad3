"""The KMC's methods on the bus: each passes on to the part that does it.

All are idempotent: the bus delivers a request at most once, and a client
that got no answer asks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import oslo_messaging

from vmsec.keysync.messages import (
    RPC_VERSION,
    AcquireAnswer,
    DiskReport,
    KeyRecord,
    NodeRecord,
    VMRecord,
)
from vmsec.keysync.transport import EXCHANGE, rpc_method

if TYPE_CHECKING:
    from vmsec.kmc.enrolment import Enrolment
    from vmsec.kmc.keyring import Keyring
    from vmsec.kmc.ledger import Ledger
    from vmsec.kmc.protection import Protection


class KMCEndpoint:
    """What agents, controller and API may call.

    Args:
        enrolment: Nodes.
        protection: VMs.
        keyring: Keys.
        ledger: Disks and manifests.
    """

    target = oslo_messaging.Target(exchange=EXCHANGE, version=RPC_VERSION)

    def __init__(
        self,
        *,
        enrolment: Enrolment,
        protection: Protection,
        keyring: Keyring,
        ledger: Ledger,
    ) -> None:
        self._enrolment, self._protection = enrolment, protection
        self._keyring, self._ledger = keyring, ledger

    @rpc_method
    def node_enroll(
        self, *, name: str, srk_public: bytes, clear: bool
    ) -> NodeRecord:
        """Enroll a node; see :meth:`Enrolment.enroll`."""
        return self._enrolment.enroll(name, srk_public, clear=clear)

    @rpc_method
    def node_list(self) -> tuple[NodeRecord, ...]:
        """List nodes; see :meth:`Enrolment.list_nodes`."""
        return self._enrolment.list_nodes()

    @rpc_method
    def vm_protect(
        self,
        *,
        vm: str,
        name: str,
        project: str,
        level: str,
        node: str | None = None,
    ) -> VMRecord:
        """Protect a VM; see :meth:`Protection.protect`."""
        return self._protection.protect(
            vm, name=name, project=project, level=level, node=node
        )

    @rpc_method
    def vm_place(self, *, vm: str, node: str | None) -> VMRecord:
        """Place a VM; see :meth:`Protection.place`."""
        return self._protection.place(vm, node)

    @rpc_method
    def vm_list(self) -> tuple[VMRecord, ...]:
        """List VMs; see :meth:`Protection.list_vms`."""
        return self._protection.list_vms()

    @rpc_method
    def vm_show(self, *, vm: str) -> VMRecord:
        """Show a VM; see :meth:`Protection.show`."""
        return self._protection.show(vm)

    @rpc_method
    def key_list(self, *, vm: str | None = None) -> tuple[KeyRecord, ...]:
        """List keys; see :meth:`Keyring.list_keys`."""
        return self._keyring.list_keys(vm)

    @rpc_method
    def key_show(self, *, vm: str, version: int | None = None) -> KeyRecord:
        """Show a key; see :meth:`Keyring.show`."""
        return self._keyring.show(vm, version)

    @rpc_method
    def key_rotate(self, *, vm: str) -> KeyRecord:
        """Rotate a VM's key; see :meth:`Keyring.rotate`."""
        return self._keyring.rotate(vm)

    @rpc_method
    def acquire(
        self,
        *,
        node: str,
        vm: str,
        request_id: str,
        held: tuple[int, ...] = (),
    ) -> AcquireAnswer:
        """Give keys to a node; see :meth:`Keyring.acquire`."""
        return self._keyring.acquire(node, vm, request_id, held)

    @rpc_method
    def report(self, *, node: str, report: DiskReport) -> None:
        """Take a report; see :meth:`Ledger.report`."""
        self._ledger.report(node, report)

    @rpc_method
    def vm_leave(self, *, node: str, vm: str) -> None:
        """Take note of a live migration; see :meth:`Ledger.leave`."""
        self._ledger.leave(node, vm)

    @rpc_method
    def manifest_get(
        self, *, node: str, vm: str, disk: str, generation: int | None = None
    ) -> bytes:
        """Fetch a manifest; see :meth:`Ledger.manifest`."""
        return self._ledger.manifest(node, vm, disk, generation)
