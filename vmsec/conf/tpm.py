"""``[tpm]``: which TPM holds the keys of the KMC and of a node."""

from __future__ import annotations

from dataclasses import dataclass

from oslo_config import cfg

GROUP = "tpm"

_TCTI_HELP = (
    "a TCTI string of the TPM2 software stack, for example "
    "device:/dev/tpmrm0 or swtpm:path=/run/tpm.sock. Empty: vmsec runs a "
    "software TPM (swtpm) itself, with its state under state_path. A "
    "software TPM protects the keys no better than the files that hold its "
    "state: use one for trials and tests only."
)

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "kmc_tcti",
        default="",
        help=f"The TPM of the key-management centre: {_TCTI_HELP}",
    ),
    cfg.StrOpt(
        "node_tcti",
        default="",
        help=f"The TPM of this compute node: {_TCTI_HELP}",
    ),
    cfg.FloatOpt(
        "timeout",
        default=30.0,
        min=1.0,
        max=600.0,
        help="Seconds to wait for a TPM that does not answer before the "
        "request fails. A hardware TPM may need several seconds for one "
        "RSA operation.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TPMSettings:
    """The two TPMs; an empty TCTI asks for a software TPM."""

    kmc_tcti: str
    node_tcti: str
    timeout_seconds: float

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> TPMSettings:
        """Read the group."""
        group = conf.tpm
        return cls(
            kmc_tcti=group.kmc_tcti,
            node_tcti=group.node_tcti,
            timeout_seconds=group.timeout,
        )
