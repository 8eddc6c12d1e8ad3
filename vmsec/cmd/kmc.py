"""``vmsec-kmc``: the key-management centre."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmsec.cmd.bus import open_shared_bus
from vmsec.cmd.daemon import Service, run_daemon
from vmsec.conf.kmc import KMCSettings
from vmsec.kmc.service import KMCService

if TYPE_CHECKING:
    from oslo_config import cfg

    from vmsec.cmd.bus import Bus


def parts(conf: cfg.ConfigOpts, bus: Bus) -> list[Service]:
    """Make this daemon's services, in the order of their start."""
    return [KMCService(KMCSettings.from_conf(conf), bus.transport)]


def build(conf: cfg.ConfigOpts) -> list[Service]:
    """Make all that this daemon runs: the bus, then its services."""
    bus = open_shared_bus(conf)
    return [bus, *parts(conf, bus)]


def main() -> int:
    """Run the daemon until a signal ends it."""
    return run_daemon("vmsec-kmc", ["kmc"], build)


if __name__ == "__main__":
    sys.exit(main())
