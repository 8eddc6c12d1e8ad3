"""The API as a service: clients of the bus, application, server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.api.app import create_app
from vmsec.api.server import APIServer
from vmsec.api.services import Services
from vmsec.keysync.client import AgentClient, KMCClient

if TYPE_CHECKING:
    from vmsec.conf.api import APISettings


QUESTION_SECONDS = 45.0
"""For what an agent answers without touching a disk. Its TPM may have to be
waited for, 30 s by default."""


class APIService:
    """Serves the API until it is stopped.

    Args:
        transport: Made by :func:`~vmsec.keysync.transport.open_transport`;
            it stays the caller's.
        settings: How to listen, and how long to wait for an agent.
        kmc_timeout_seconds: How long to wait for the KMC.
    """

    def __init__(
        self,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        settings: APISettings,
        kmc_timeout_seconds: float,
    ) -> None:
        services = Services(
            kmc=KMCClient(transport, kmc_timeout_seconds),
            agent=lambda node: AgentClient(transport, node, QUESTION_SECONDS),
            worker=lambda node: AgentClient(
                transport, node, settings.agent_timeout_seconds
            ),
        )
        self._server = APIServer(create_app(services), settings)

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()

    def stop(self) -> None:
        """Finish what is being served, and stop."""
        self._server.stop()
