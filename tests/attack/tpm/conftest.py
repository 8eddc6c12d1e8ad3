"""Fixtures of the attacks on TPM custody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.tpm import (  # noqa: F401 - fixtures are found by name
    kmc_software,
    node_software,
    node_tpm,
    opened_cloud,
    other_software,
    tpm_directory,
)
from vmsec.tpm import SRKAlgorithm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tpm import Cloud
    from vmsec.tpm import SoftwareTPM


@pytest.fixture
def algorithm() -> SRKAlgorithm:
    """The storage root key; tests that want both parametrize it."""
    return SRKAlgorithm.ECC_P256


@pytest.fixture
def cloud(
    kmc_software: SoftwareTPM,  # noqa: F811 - a fixture's name is its use
    node_software: SoftwareTPM,  # noqa: F811
    tmp_path: Path,
    algorithm: SRKAlgorithm,
) -> Iterator[Cloud]:
    """A KMC and a node."""
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, algorithm) as opened:
        yield opened
