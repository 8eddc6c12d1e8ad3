"""``vmsec-controller``: listens to the cloud's notifications."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmsec.cmd.bus import CloudBus, open_shared_bus
from vmsec.cmd.daemon import Service, run_daemon
from vmsec.conf.controller import ControllerSettings
from vmsec.controller.service import ControllerService
from vmsec.keysync.client import KMCClient

if TYPE_CHECKING:
    from oslo_config import cfg

    from vmsec.cmd.bus import Bus


def parts(conf: cfg.ConfigOpts, bus: Bus) -> list[Service]:
    """Make this daemon's services, in the order of their start."""
    settings = ControllerSettings.from_conf(conf)
    kmc = KMCClient(bus.transport, bus.settings.rpc_timeout_seconds)
    cloud = CloudBus(
        conf, settings.transport_url or bus.settings.transport_url
    )
    return [cloud, ControllerService(settings, kmc, cloud.transport)]


def build(conf: cfg.ConfigOpts) -> list[Service]:
    """Make all that this daemon runs: the bus, then its services."""
    bus = open_shared_bus(conf)
    return [bus, *parts(conf, bus)]


def main() -> int:
    """Run the daemon until a signal ends it."""
    return run_daemon("vmsec-controller", ["controller"], build)


if __name__ == "__main__":
    sys.exit(main())
