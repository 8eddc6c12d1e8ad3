"""``/v1/keys``: what is known about VM keys; never the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.api import request
from vmsec.keysync import wire

if TYPE_CHECKING:
    import falcon

    from vmsec.api.services import Services


class KeyCollection:
    """``/v1/keys``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the key versions, of all VMs or of ``?vm=``."""
        keys = self._services.kmc.key_list(request.query_uuid(req, "vm"))
        resp.media = {"keys": wire.encode(keys)}


class KeyItem:
    """``/v1/keys/{vm}[/{version}]``; without version the active one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(
        self,
        _req: falcon.Request,
        resp: falcon.Response,
        vm: str,
        version: str | None = None,
    ) -> None:
        """Show one version of a VM's key."""
        number = None if version is None else request.require_version(version)
        record = self._services.kmc.key_show(
            request.require_uuid(vm, "vm"), number
        )
        resp.media = {"key": wire.encode(record)}
