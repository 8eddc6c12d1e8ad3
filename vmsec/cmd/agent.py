"""``vmsec-agent``: the agent of a compute node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmsec.agent.service import AgentService
from vmsec.cmd.bus import open_shared_bus
from vmsec.cmd.daemon import Service, run_daemon
from vmsec.conf.agent import AgentSettings
from vmsec.conf.sealing import SealingSettings

if TYPE_CHECKING:
    from oslo_config import cfg

    from vmsec.cmd.bus import Bus


def parts(conf: cfg.ConfigOpts, bus: Bus) -> list[Service]:
    """Make this daemon's services, in the order of their start."""
    settings = AgentSettings.from_conf(conf)
    agent = AgentService(
        settings,
        bus.transport,
        sealing=SealingSettings.from_conf(conf),
        kmc_timeout_seconds=bus.settings.rpc_timeout_seconds,
        hook_directory=settings.hook_directory,
    )
    return [agent]


def build(conf: cfg.ConfigOpts) -> list[Service]:
    """Make all that this daemon runs: the bus, then its services."""
    bus = open_shared_bus(conf)
    return [bus, *parts(conf, bus)]


def main() -> int:
    """Run the daemon until a signal ends it."""
    return run_daemon("vmsec-agent", ["agent"], build)


if __name__ == "__main__":
    sys.exit(main())
