"""The API with the real clients, on a bus where nobody serves."""

from __future__ import annotations

import pytest
from falcon import testing

from vmsec.api.app import create_app
from vmsec.api.services import Services
from vmsec.keysync.client import AgentClient, KMCClient
from vmsec.keysync.transport import open_transport

SILENCE_SECONDS = 0.2


@pytest.fixture
def api() -> testing.TestClient:
    """The application; whatever reaches the KMC times out."""
    transport = open_transport()
    services = Services(
        kmc=KMCClient(transport, SILENCE_SECONDS),
        agent=lambda node: AgentClient(transport, node, SILENCE_SECONDS),
        worker=lambda node: AgentClient(transport, node, SILENCE_SECONDS),
    )
    return testing.TestClient(create_app(services))
