"""``[kmc]``: the key-management centre, and all that it needs to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oslo_config import cfg

from vmsec.conf.database import DatabaseSettings
from vmsec.conf.service import ServiceSettings
from vmsec.conf.tpm import TPMSettings

if TYPE_CHECKING:
    from pathlib import Path

GROUP = "kmc"

OPTS: list[cfg.Opt] = [
    cfg.IntOpt(
        "threads",
        default=8,
        min=1,
        max=256,
        help="Requests that the KMC answers at the same time. Its TPM "
        "serves one at a time; more threads keep requests that need no TPM "
        "(reports, listings) from waiting behind those that do.",
    ),
    cfg.IntOpt(
        "manifests_kept",
        default=3,
        min=1,
        max=100,
        help="Manifests kept per disk, the newest first. An older one "
        "unseals a copy of the disk that was taken before the last seal, "
        "for instance one put back from a backup.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class KMCSettings:
    """All that :class:`vmsec.kmc.service.KMCService` is told.

    ``state_directory`` is the KMC's own (``<state_path>/kmc``); an empty
    ``tcti`` asks for a software TPM there.
    """

    host: str
    state_directory: Path
    database: DatabaseSettings
    tcti: str
    tpm_timeout_seconds: float
    threads: int
    manifests_kept: int

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> KMCSettings:
        """Read the group, and what the KMC needs of the others."""
        service = ServiceSettings.from_conf(conf)
        tpm = TPMSettings.from_conf(conf)
        return cls(
            host=service.host,
            state_directory=service.state_path / "kmc",
            database=DatabaseSettings.from_conf(conf),
            tcti=tpm.kmc_tcti,
            tpm_timeout_seconds=tpm.timeout_seconds,
            threads=conf.kmc.threads,
            manifests_kept=conf.kmc.manifests_kept,
        )
