"""Disks that boot by themselves, built by ``devstack/lab/bootable_disk.sh``.

Used by the tests, the quickstart and the benchmarks; knows no pytest.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
from dataclasses import dataclass
from typing import Literal

ROOT = pathlib.Path(__file__).parents[2]
LAB = ROOT / "devstack" / "lab"
CACHE = ROOT / ".work" / "lab"
BUILD_TIMEOUT_SECONDS = 600
MARKER = re.compile(
    rb"VMSEC-BOOT-MARKER boot=(\d+) uptime=(\S+) root=(\S+) sum=(\w+)"
)


@dataclass(frozen=True, slots=True)
class BootMarker:
    """What the guest printed once its root file system was up.

    ``boot`` counts up on the disk; ``digest`` is that of its payload file.
    """

    boot: int
    uptime_seconds: float
    root: str
    digest: str


def read_markers(console: bytes) -> list[BootMarker]:
    """Return every boot marker of a console, in order."""
    return [
        BootMarker(int(boot), float(uptime), root.decode(), digest.decode())
        for boot, uptime, root, digest in MARKER.findall(console)
    ]


def build_bootable_disk(
    path: pathlib.Path,
    *,
    kind: Literal["mbr", "uefi"] = "mbr",
    size_mib: int = 96,
    tree: pathlib.Path | None = None,
    parameters: str = "",
) -> pathlib.Path:
    """Build a disk image with boot loader, kernel and ext4 root.

    Args:
        path: The raw image to write; replaced if it exists.
        kind: MBR and BIOS, or GPT and UEFI.
        size_mib: Size of the disk; the files take about 22 MiB.
        tree: A directory whose content is added to the root file system.
        parameters: More kernel parameters, such as ``act=poweroff``.

    Returns:
        The same path.
    """
    command = [
        str(LAB / "bootable_disk.sh"), "--kind", kind,
        "--cache", str(CACHE / "guest"), "--size", str(size_mib),
        "--cmdline", parameters,
    ]  # fmt: skip
    if tree is not None:
        command += ["--tree", str(tree)]
    subprocess.run(
        [*command, str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    return path


def copy_sparse(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Copy an image; holes stay holes."""
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=auto", str(source), str(target)],
        check=True,
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    return target


def allocated_bytes(path: pathlib.Path) -> int:
    """Return what the file really occupies (st_blocks counts 512 bytes)."""
    return path.stat().st_blocks * 512
