"""``vmsec-allinone``: every service in one process, for one host.

SQLite, the bus that lives in one process, and two software TPMs, the KMC's
and the node's, unless the configuration names others. At the first start it
enrolls its own node.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oslo_log import log

from vmsec.cmd import agent, api, controller, kmc
from vmsec.cmd.bus import Bus
from vmsec.cmd.daemon import Service, run_daemon
from vmsec.conf.service import ServiceSettings
from vmsec.keysync.client import AgentClient, KMCClient

if TYPE_CHECKING:
    from oslo_config import cfg

LOG = log.getLogger(__name__)

ROLES = ("kmc", "agent", "controller", "api")


class OwnNode:
    """Enrolls the node of this process, once.

    Args:
        bus: The bus of this process.
        host: The node's name.
    """

    def __init__(self, bus: Bus, host: str) -> None:
        seconds = bus.settings.rpc_timeout_seconds
        self._kmc = KMCClient(bus.transport, seconds)
        self._agent = AgentClient(bus.transport, host, seconds)
        self._host = host

    def start(self) -> None:
        """Enroll the node if the KMC does not know it yet.

        A node that is known is left alone, whatever its TPM now says: that
        a name comes with another TPM is for the operator to judge.
        """
        if self._host in {node.name for node in self._kmc.node_list()}:
            return
        self._kmc.node_enroll(self._host, self._agent.node_identity())
        LOG.info("enrolled this node, %s", self._host)

    def stop(self) -> None:
        """Do nothing: the node stays enrolled."""


def build(conf: cfg.ConfigOpts) -> list[Service]:
    """Make all services, in the order of their start."""
    bus = Bus(conf)
    return [
        bus,
        *kmc.parts(conf, bus),
        *agent.parts(conf, bus),
        OwnNode(bus, ServiceSettings.from_conf(conf).host),
        *controller.parts(conf, bus),
        *api.parts(conf, bus),
    ]


def main() -> int:
    """Run all services until a signal ends them."""
    return run_daemon("vmsec-allinone", ROLES, build)


if __name__ == "__main__":
    sys.exit(main())
