"""The services that the API asks; it holds no state of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.keysync.client import AgentClient, KMCClient


@dataclass(frozen=True, slots=True)
class Services:
    """How to reach the KMC and the agent of a node.

    ``agent`` makes the client of the node with that name, for questions;
    ``worker`` makes the one for work on disks, which is waited for much
    longer.
    """

    kmc: KMCClient
    agent: Callable[[str], AgentClient]
    worker: Callable[[str], AgentClient]

    def require_worker(self, node: str) -> AgentClient:
        """Return the client for work on disks of an agent that is there.

        Raises:
            SyncError: The agent does not answer; told now, not after all
                the time that work on disks may take.
        """
        self.agent(node).node_identity()
        return self.worker(node)
