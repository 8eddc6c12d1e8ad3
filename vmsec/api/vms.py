"""``/v1/vms``: the protected VMs, and manual work on their disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import falcon

from vmsec.api import request
from vmsec.errors import RequestError
from vmsec.keysync import wire

if TYPE_CHECKING:
    from vmsec.api.services import Services

ACTIONS = ("seal", "unseal", "rekey")


class VMCollection:
    """``/v1/vms``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List the protected VMs."""
        resp.media = {"vms": wire.encode(self._services.kmc.vm_list())}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Protect a VM: make its key; its disks are sealed as it stops."""
        body = request.read_protect(req)
        record = self._services.kmc.vm_protect(
            vm=body.vm,
            name=body.name,
            project=body.project,
            level=body.level,
        )
        resp.status = falcon.HTTP_201
        resp.location = f"/v1/vms/{body.vm}"
        resp.media = {"vm": wire.encode(record)}


class VMItem:
    """``/v1/vms/{vm}``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(
        self, _req: falcon.Request, resp: falcon.Response, vm: str
    ) -> None:
        """Show one VM and its disks."""
        record = self._services.kmc.vm_show(request.require_uuid(vm, "vm"))
        resp.media = {"vm": wire.encode(record)}


class VMActions:
    """``/v1/vms/{vm}/actions``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_post(
        self, req: falcon.Request, resp: falcon.Response, vm: str
    ) -> None:
        """Have the VM's node seal, unseal or re-key its disks now.

        A re-key makes the new key version first. Where the node then fails,
        its disks take the new key at their next seal.
        """
        request.require_uuid(vm, "vm")
        action = request.read_action(req, ACTIONS)
        agent = self._services.require_worker(self._node_of(vm))
        if action == "rekey":
            self._services.kmc.key_rotate(vm)
        job = {
            "seal": agent.vm_seal,
            "unseal": agent.vm_unseal,
            "rekey": agent.vm_rekey,
        }[action](vm)
        resp.media = {"job": wire.encode(job)}

    def _node_of(self, vm: str) -> str:
        """Return where a VM is; if nobody said, the only node there is."""
        kmc = self._services.kmc
        if (node := kmc.vm_show(vm).node) is not None:
            return node
        names = [node.name for node in kmc.node_list()]
        if len(names) == 1:
            return names[0]
        raise RequestError(
            f"VM {vm}: no node is known for it yet; start it once, or let "
            "the controller tell where it is placed"
        )
