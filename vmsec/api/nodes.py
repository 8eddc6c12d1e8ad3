"""``/v1/nodes``: the compute nodes that may receive keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from vmsec.api import request

if TYPE_CHECKING:
    from vmsec.api.services import Services
    from vmsec.keysync.messages import NodeRecord


class NodeCollection:
    """``/v1/nodes``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """List the enrolled nodes."""
        nodes = self._services.kmc.node_list()
        resp.media = {"nodes": [present(node) for node in nodes]}

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Enrol a node with the TPM that its agent shows.

        The name is pinned to that TPM: a name that comes with another one
        is refused by the KMC, unless ``clear`` says that the operator knows.
        """
        body = request.read_enroll(req)
        srk_public = self._services.agent(body.name).node_identity()
        record = self._services.kmc.node_enroll(
            name=body.name, srk_public=srk_public, clear=body.clear
        )
        resp.status = falcon.HTTP_201
        resp.media = {"node": present(record)}


def present(node: NodeRecord) -> dict[str, Any]:
    """Turn a record into JSON; the TPM name in hex, as tpm2-tools print it."""
    return {
        "name": node.name,
        "srk_name": node.srk_name.hex(),
        "state": node.state,
        "enrolled_at": node.enrolled_at,
    }
