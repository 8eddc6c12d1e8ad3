"""``[messaging]``: the bus between the services."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = "messaging"

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "transport_url",
        default="fake://",
        secret=True,
        help="The message bus of the vmsec services, as an oslo.messaging "
        "URL, for example rabbit://user:password@host:5672/. The default "
        "serves vmsec-allinone only: with fake:// all services must live in "
        "one process.",
    ),
    cfg.IntOpt(
        "rpc_timeout",
        default=10,
        min=1,
        max=600,
        help="Seconds to wait for another service's answer. A VM's start "
        "waits for the KMC that long before the node falls back on the keys "
        "it holds, so keep it well below [agent] hook_deadline.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagingSettings:
    """How the services find one another."""

    transport_url: str = field(repr=False)
    rpc_timeout_seconds: int

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> MessagingSettings:
        """Read the group."""
        group = conf.messaging
        return cls(
            transport_url=group.transport_url,
            rpc_timeout_seconds=group.rpc_timeout,
        )
