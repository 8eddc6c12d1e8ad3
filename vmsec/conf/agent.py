"""``[agent]``: the agent of a compute node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from vmsec.conf.service import ServiceSettings
from vmsec.conf.tpm import TPMSettings

GROUP = "agent"

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "socket",
        default="/run/vmsec/agent.sock",
        help="UNIX socket on which the agent hears libvirt's hook. The hook "
        "looks for it at the default place unless it was installed with "
        "another one.",
    ),
    cfg.StrOpt(
        "hook_directory",
        default="/etc/libvirt/hooks",
        help="libvirt's hooks, where 'vmsec hook install' puts the one of "
        "vmsec and the agent checks that it is there.",
    ),
    cfg.StrOpt(
        "protect",
        default="listed",
        choices=[
            ("listed", "only VMs that the operator protects"),
            ("all", "every VM; one that starts here is protected from then"),
        ],
        help="Which VMs of this node are protected.",
    ),
    cfg.IntOpt(
        "hook_deadline",
        default=60,
        min=5,
        max=600,
        help="Seconds within which a VM's start must have its disks "
        "unsealed. Past it the start fails with a message and the disks "
        "stay sealed: a node without the KMC fails instead of hanging.",
    ),
    cfg.IntOpt(
        "seal_budget",
        default=10,
        min=1,
        max=600,
        help="Seconds for which a stopping VM's release waits for its disks "
        "to be sealed. Whoever sees the VM as off then finds it sealed. "
        "Past the budget the seal goes on in the background, and a start "
        "waits for it.",
    ),
    cfg.BoolOpt(
        "offline_start",
        default=True,
        help="Whether this node may start VMs whose keys it holds while the "
        "KMC cannot be reached. Off: every start asks the KMC. Stopping "
        "never needs the KMC.",
    ),
    cfg.StrOpt(
        "libvirt_uri",
        default="qemu:///system",
        help="The libvirt daemon whose VMs this agent guards.",
    ),
    cfg.IntOpt(
        "reconcile_interval",
        default=60,
        min=5,
        max=86_400,
        help="Seconds between two comparisons of the VMs that run with the "
        "disks that are plain. They find what no hook told: a host that "
        "lost power, a libvirtd or an agent that was down.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """All that the agent is told about itself.

    ``state_directory`` is the node's own (``<state_path>/agent``); an empty
    ``tcti`` asks for a software TPM there.
    """

    host: str
    state_directory: Path
    socket: Path
    hook_directory: Path = Path("/etc/libvirt/hooks")
    protect_all: bool
    hook_deadline_seconds: int
    seal_budget_seconds: int
    offline_start: bool
    libvirt_uri: str
    reconcile_interval_seconds: int
    tcti: str
    tpm_timeout_seconds: float

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> AgentSettings:
        """Read the group, and what the agent needs of the others."""
        group = conf.agent
        service = ServiceSettings.from_conf(conf)
        tpm = TPMSettings.from_conf(conf)
        return cls(
            host=service.host,
            state_directory=service.state_path / "agent",
            socket=Path(group.socket),
            hook_directory=Path(group.hook_directory),
            protect_all=group.protect == "all",
            hook_deadline_seconds=group.hook_deadline,
            seal_budget_seconds=group.seal_budget,
            offline_start=group.offline_start,
            libvirt_uri=group.libvirt_uri,
            reconcile_interval_seconds=group.reconcile_interval,
            tcti=tpm.node_tcti,
            tpm_timeout_seconds=tpm.timeout_seconds,
        )
