"""``[controller]``: whose notifications vmsec listens to."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = "controller"

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "transport_url",
        default="",
        secret=True,
        help="The message bus on which the cloud's controller publishes. "
        "Empty: the same as [messaging] transport_url.",
    ),
    cfg.StrOpt(
        "exchange",
        default="nova",
        help="Exchange of the notifications: nova's control_exchange. On "
        "another one nothing arrives, and nothing says so.",
    ),
    cfg.ListOpt(
        "topics",
        default=["notifications", "versioned_notifications"],
        help="Topics to listen to: nova's unversioned and versioned "
        "notifications. One of them is enough.",
    ),
    cfg.StrOpt(
        "pool",
        default="vmsec",
        regex=r"^[A-Za-z0-9_.-]+$",
        help="Name of vmsec's own copy of the notifications, so that it "
        "takes none away from other consumers. Each topic has a queue "
        "<pool>-<topic>.",
    ),
    cfg.ListOpt(
        "handlers",
        default=["nova"],
        help="Handlers of the entry point group "
        "vmsec.controller.handlers that are given the notifications.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """What the controller listens to, and who handles it.

    ``transport_url`` is ``None`` for "the services' own bus".
    """

    transport_url: str | None = field(repr=False)
    exchange: str
    topics: tuple[str, ...]
    pool: str
    handlers: tuple[str, ...]

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> ControllerSettings:
        """Read the group."""
        group = conf.controller
        return cls(
            transport_url=group.transport_url or None,
            exchange=group.exchange,
            topics=tuple(group.topics),
            pool=group.pool,
            handlers=tuple(group.handlers),
        )
