"""A real KMC with a software TPM, and nodes with theirs, over fake://."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tools import require_tool
from vmsec.conf.database import DatabaseSettings
from vmsec.conf.kmc import KMCSettings
from vmsec.keysync.client import KMCClient
from vmsec.keysync.transport import open_transport
from vmsec.kmc.service import KMCService
from vmsec.tpm import TPM, MigratedKey, NodeCustody, SoftwareTPM, open_tpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmsec.keysync.messages import KeyGrant


@dataclass
class Node:
    """A compute node's TPM."""

    name: str
    custody: NodeCustody

    @property
    def srk_public(self) -> bytes:
        return self.custody.srk_public()

    def derive(self, grant: KeyGrant) -> bytes:
        """Import a grant into this TPM, and have it derive the disk key."""
        key = self.custody.import_key(
            MigratedKey(
                public=grant.public,
                duplicate=grant.duplicate,
                seed=grant.seed,
                approval=grant.approval,
                approval_public=grant.approval_public,
            )
        )
        context = f"{grant.vm}/{grant.version}".encode()
        with self.custody.unseal(key, context) as secret:
            return secret.reveal()


@pytest.fixture(scope="session")
def node_tpms(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, TPM]]:
    """The TPMs of nodes a and b."""
    require_tool("swtpm")
    with contextlib.ExitStack() as stack:
        tpms = {}
        for name in ("a", "b"):
            directory = tmp_path_factory.mktemp(f"n{name}")
            tcti = stack.enter_context(SoftwareTPM(directory, "tpm")).tcti
            tpms[name] = stack.enter_context(
                open_tpm(tcti, timeout_seconds=30)
            )
        yield tpms


@pytest.fixture
def nodes(node_tpms: dict[str, TPM], tmp_path: Path) -> dict[str, Node]:
    """Nodes a and b, which know no KMC yet."""
    made = {}
    for name, tpm in node_tpms.items():
        directory = tmp_path / name
        directory.mkdir()
        made[name] = Node(f"node-{name}", NodeCustody(tpm, directory))
    return made


@pytest.fixture
def transport() -> Iterator[Any]:
    """The bus in this process; emptied at the end."""
    bus = open_transport()
    yield bus
    bus.cleanup()


@pytest.fixture
def settings(tmp_path: Path) -> KMCSettings:
    """A KMC of its own directory, database and software TPM."""
    require_tool("swtpm")
    return KMCSettings(
        host="kmc-1",
        state_directory=tmp_path / "kmc",
        database=DatabaseSettings(
            connection=f"sqlite:///{tmp_path}/kmc/vmsec.sqlite"
        ),
        tcti="",
        tpm_timeout_seconds=30,
        threads=8,
        manifests_kept=3,
    )


@pytest.fixture
def service(settings: KMCSettings, transport: Any) -> Iterator[KMCService]:
    """The KMC, running."""
    kmc = KMCService(settings, transport)
    kmc.start()
    yield kmc
    kmc.stop()


@pytest.fixture
def client(service: KMCService, transport: Any) -> KMCClient:
    """A client of the running KMC."""
    assert service is not None
    return KMCClient(transport, 30)
