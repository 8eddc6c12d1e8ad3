"""Software TPMs for the suites: one KMC and two nodes, made once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.tools import require_tool
from vmsec.tpm import (
    TPM,
    KMCCustody,
    NodeCustody,
    SoftwareTPM,
    SRKAlgorithm,
    open_tpm,
)
from vmsec.tpm.manufacture import manufacture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmsec.tpm import NodeKey

NAMES = ("kmc", "node", "other")

both_algorithms = pytest.mark.parametrize(
    "algorithm", list(SRKAlgorithm), ids=lambda kind: kind.name
)
"""Run the test with either storage root key."""


def require_swtpm() -> None:
    """Skip or fail unless everything that software TPMs need is there."""
    require_tool("swtpm", "swtpm_setup", "swtpm_localca", "setpriv")


@pytest.fixture(scope="session")
def tpm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three TPMs under one CA; none of them runs."""
    require_swtpm()
    directory = tmp_path_factory.mktemp("tpm")
    for name in NAMES:
        manufacture(directory, name)
    return directory


@pytest.fixture
def node_software(tpm_directory: Path) -> Iterator[SoftwareTPM]:
    """A node's TPM, running."""
    with SoftwareTPM(tpm_directory, "node") as software:
        yield software


@pytest.fixture
def node_tpm(node_software: SoftwareTPM) -> Iterator[TPM]:
    """A node's TPM, open."""
    with open_tpm(node_software.tcti, timeout_seconds=20) as tpm:
        yield tpm


@dataclasses.dataclass
class Cloud:
    """A KMC and a node, each with its TPM and its state directory."""

    kmc_tpm: TPM
    node_tpm: TPM
    kmc: KMCCustody
    node: NodeCustody
    kmc_state: Path
    node_state: Path

    def deliver(self) -> NodeKey:
        """Make a VM key and bring it to the node."""
        sealed = self.kmc.create_key()
        return self.node.import_key(
            self.kmc.migrate(sealed, self.node.srk_public())
        )


@contextlib.contextmanager
def opened_cloud(
    tctis: tuple[str, str], state: Path, algorithm: SRKAlgorithm
) -> Iterator[Cloud]:
    """Open both TPMs, with fresh state directories below ``state``."""
    states = state / "kmc", state / "node"
    for each in states:
        each.mkdir(parents=True, exist_ok=True)
    with (
        open_tpm(tctis[0], timeout_seconds=20) as kmc,
        open_tpm(tctis[1], timeout_seconds=20) as node,
    ):
        yield Cloud(
            kmc,
            node,
            KMCCustody(kmc, states[0], algorithm=algorithm),
            NodeCustody(node, states[1], algorithm=algorithm),
            *states,
        )


@pytest.fixture
def kmc_software(tpm_directory: Path) -> Iterator[SoftwareTPM]:
    """The KMC's TPM, running."""
    with SoftwareTPM(tpm_directory, "kmc") as software:
        yield software


@pytest.fixture
def other_software(tpm_directory: Path) -> Iterator[SoftwareTPM]:
    """Another node's TPM, running."""
    with SoftwareTPM(tpm_directory, "other") as software:
        yield software


def send(software: SoftwareTPM, number: signal.Signals) -> None:
    """Send a signal to swtpm itself."""
    assert software.pid is not None
    os.kill(software.pid, number)


def kill(
    software: SoftwareTPM, number: signal.Signals = signal.SIGKILL
) -> None:
    """End swtpm behind its owner's back; wait until it is gone."""
    send(software, number)
    while software.running:
        time.sleep(0.001)
