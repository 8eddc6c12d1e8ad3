"""The quickstart's tour ends well, and nothing of it is left."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.support.disk import ROOT
from tests.support.tools import require_root, require_tool

TOOLS = (
    "libvirtd", "virsh", "qemu-system-x86_64", "swtpm", "grub-mkimage",
    "fls", "debugfs", "testdisk", "mount",
)  # fmt: skip
SECONDS = 540
KEEPER = ROOT / ".work" / "quickstart.pid"


def processes_of_the_tour() -> list[str]:
    """Command lines that name the tour's directory."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(ROOT / ".work" / "quickstart") in line:
            found.append(line)
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devstack.quickstart", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_tour_passes_and_what_was_kept_can_be_stopped() -> None:
    require_tool(*TOOLS)
    require_root()
    try:
        tour = run("--keep")
        assert tour.returncode == 0, tour.stdout + tour.stderr
        assert "quickstart passed" in tour.stdout
        assert processes_of_the_tour(), "--keep keeps the services"
    finally:
        stopped = run("--stop")
    assert stopped.returncode == 0
    assert not KEEPER.exists()
    assert not processes_of_the_tour()
