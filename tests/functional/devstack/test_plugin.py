"""The DevStack plugin really starts the services, and cleans up after them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.support.disk import LAB, ROOT
from tests.support.libvirt import PrivateLibvirt
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
SECONDS = 400


@pytest.fixture
def short_path() -> Iterator[pathlib.Path]:
    """A directory of its own whose name leaves room for sockets' (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="vmsec-") as directory:
        yield pathlib.Path(directory)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 90)
def test_phases_start_four_healthy_services_and_leave_nothing(
    short_path: pathlib.Path,
) -> None:
    require_tool("libvirtd", "rabbitmq-server", "swtpm", "dpkg-query")
    require_root()
    hooks = short_path / "hooks"
    hooks.mkdir()
    dest = short_path / "dest"
    dest.mkdir()
    with PrivateLibvirt(hooks=hooks) as libvirt:
        environment = {
            **os.environ,
            "DEST": str(dest),
            "PREFIX": str(pathlib.Path(sys.executable).parent),
            "VMSEC_DIR": str(ROOT),
            "VMSEC_CONF_DIR": str(dest / "etc"),
            "VMSEC_RUN_DIR": str(libvirt.directory / "run"),
            "VMSEC_HOOKS": str(hooks),
            "VMSEC_LIBVIRT_URI": libvirt.uri,
            "VMSEC_HOST": "devstack-node",
        }
        result = subprocess.run(
            ["timeout", "-k", "30", str(SECONDS),
             str(LAB / "private_rabbitmq.sh"), str(HERE / "host.sh")],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=SECONDS + 60,
        )  # fmt: skip
        logs = "".join(path.read_text() for path in dest.glob("*.log"))
    assert result.returncode == 0, result.stdout + result.stderr + logs
    findings = json.loads((dest / "doctor.json").read_text())
    assert all(finding["ok"] for finding in findings)
    assert {finding["service"] for finding in findings} >= {
        "kmc",
        "agent devstack-node",
    }
    assert len((dest / "ran").read_text().splitlines()) == 4
    assert "transport_url = rabbit://" in (dest / "vmsec.conf").read_text()
    assert (dest / "hooks").read_text() == "50-vmsec\n"
    assert not list(dest.glob("*.pid"))
    assert not (dest / "etc").exists()
    assert not list((hooks / "qemu.d").iterdir())
