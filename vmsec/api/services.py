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

    ``agent`` makes the client of the node with that name.
    """

    kmc: KMCClient
    agent: Callable[[str], AgentClient]
