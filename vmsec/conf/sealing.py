"""``[sealing]``: how much of a disk is sealed, and where journals lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

from vmsec.ondisk.extent import Level

GROUP = "sealing"

_LEVELS = {
    Level.BOOT: "boot record, partition tables, boot sectors, superblocks "
    "and their like: the disk neither starts nor mounts",
    Level.METADATA: "all that names, finds or describes a file as well; "
    "file contents stay readable to who carves for them",
}

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "level",
        default=Level.METADATA.value,
        choices=[(level.value, text) for level, text in _LEVELS.items()],
        help="How much of the disk is sealed for VMs that are protected "
        "without naming a level.",
    ),
    cfg.IntOpt(
        "fallback_size",
        default=4 << 20,
        min=1 << 20,
        max=1 << 30,
        help="Bytes that are sealed at the head and at the tail of a "
        "partition whose file system is not known to vmsec.",
    ),
    cfg.StrOpt(
        "journal_directory",
        default="",
        help="Directory for seal journals. Empty: beside the image, where "
        "another host with the same storage can finish an interrupted job "
        "(block devices: under state_path). It must survive a power loss "
        "and be on the same host or storage as the image.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingSettings:
    """The level for new VMs and the engine's settings.

    ``journal_directory`` is ``None`` for "beside the image".
    """

    level: Level
    fallback_bytes: int
    journal_directory: Path | None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> SealingSettings:
        """Read the group."""
        group = conf.sealing
        directory = group.journal_directory
        return cls(
            level=Level(group.level),
            fallback_bytes=group.fallback_size,
            journal_directory=Path(directory) if directory else None,
        )
