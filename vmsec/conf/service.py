"""``[DEFAULT]``: what every service of a host shares."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

GROUP = None

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "state_path",
        default="/var/lib/vmsec",
        help="Directory for what vmsec keeps: the KMC's database and TPM "
        "state, a node's manifests and sealed key objects, journals of "
        "block devices. Back up the KMC's part of it; without that part and "
        "its TPM no sealed disk can be unsealed.",
    ),
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<your host name>",
        regex=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?$",
        help="Name of this node. It must be the name under which the node "
        "was enrolled, and the one that the cloud's controller uses for it "
        "(for nova: [DEFAULT] host of nova-compute).",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Where this host keeps its state, and its name."""

    state_path: Path
    host: str

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> ServiceSettings:
        """Read the group."""
        return cls(state_path=Path(conf.state_path), host=conf.host)
