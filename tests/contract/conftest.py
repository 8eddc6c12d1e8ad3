"""The databases and buses on which the contracts are held.

``VMSEC_TEST_DATABASE`` names one more database (an SQLAlchemy URL; what is in
it is dropped). RabbitMQ is started privately where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.tools import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTER = (
    Path(__file__).parents[2] / "devstack" / "lab" / "private_rabbitmq.sh"
)
NAMED = os.environ.get("VMSEC_TEST_DATABASE", "")
SHOW_URL = 'echo "$RABBIT_URL"; exec sleep infinity'


@pytest.fixture(scope="session")
def rabbit_url() -> Iterator[str]:
    """A private RabbitMQ, for this test run only."""
    if shutil.which("rabbitmq-server") is None:
        missing("rabbit", "rabbitmq-server is not installed")
    node = subprocess.Popen(
        ["bash", str(STARTER), "bash", "-c", SHOW_URL],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert node.stdout is not None
        url = node.stdout.readline().strip()
        assert url.startswith("rabbit://"), "RabbitMQ did not start"
        yield url
    finally:
        os.killpg(node.pid, 15)
        node.wait(60)


@pytest.fixture(params=["fake", "rabbit"])
def bus_url(request: pytest.FixtureRequest) -> str:
    """Each kind of bus in turn."""
    if request.param == "fake":
        return "fake://"
    return str(request.getfixturevalue("rabbit_url"))


@pytest.fixture(params=["sqlite", *(["environment"] if NAMED else [])])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/kmc/vmsec.sqlite"
    return NAMED
