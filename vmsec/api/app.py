"""The WSGI application of the API, versioned JSON under ``/v1``.

The result of :func:`create_app` is a plain WSGI callable: whatever
authenticates callers is wrapped around it. Without that, who may call is
decided by the permissions of the UNIX socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import falcon

from vmsec.api import answer
from vmsec.api.health import Doctor, Health
from vmsec.api.keys import KeyCollection, KeyItem
from vmsec.api.nodes import NodeCollection
from vmsec.api.vms import VMActions, VMCollection, VMItem
from vmsec.errors import VmsecError

if TYPE_CHECKING:
    from vmsec.api.services import Services


def create_app(services: Services) -> falcon.App[Any, Any]:
    """Build the application.

    Args:
        services: The KMC and the agents that it asks.
    """
    app = falcon.App()
    app.add_error_handler(Exception, answer.handle_unknown)
    app.add_error_handler(falcon.HTTPError, answer.handle_http_error)
    app.add_error_handler(VmsecError, answer.handle_vmsec_error)
    app.add_route("/v1/health", Health())
    app.add_route("/v1/doctor", Doctor(services))
    app.add_route("/v1/vms", VMCollection(services))
    app.add_route("/v1/vms/{vm}", VMItem(services))
    app.add_route("/v1/vms/{vm}/actions", VMActions(services))
    key = KeyItem(services)
    app.add_route("/v1/keys", KeyCollection(services))
    app.add_route("/v1/keys/{vm}", key)
    app.add_route("/v1/keys/{vm}/{version}", key)
    app.add_route("/v1/nodes", NodeCollection(services))
    return app
