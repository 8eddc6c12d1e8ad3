"""``[api]``: the HTTP interface for operators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

GROUP = "api"

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "socket",
        default="/run/vmsec/api.sock",
        help="UNIX socket of the API. Who may connect to it may administer "
        "keys: its owner, mode and group are the access control.",
    ),
    cfg.StrOpt(
        "socket_mode",
        default="0660",
        regex=r"^0?[0-7]{3}$",
        help="Permissions of the socket, in octal.",
    ),
    cfg.StrOpt(
        "socket_group",
        default="",
        help="Group of the socket. Empty: that of the process.",
    ),
    cfg.IntOpt(
        "threads",
        default=4,
        min=1,
        max=256,
        help="Requests that the API answers at the same time.",
    ),
    cfg.IntOpt(
        "agent_timeout",
        default=600,
        min=10,
        max=86_400,
        help="Seconds to wait for an agent that seals, unseals or re-keys "
        "a VM on an operator's word.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class APISettings:
    """Where and how the API listens."""

    socket: Path
    socket_mode: int
    socket_group: str | None
    threads: int
    agent_timeout_seconds: int

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> APISettings:
        """Read the group."""
        group = conf.api
        return cls(
            socket=Path(group.socket),
            socket_mode=int(group.socket_mode, 8),
            socket_group=group.socket_group or None,
            threads=group.threads,
            agent_timeout_seconds=group.agent_timeout,
        )
