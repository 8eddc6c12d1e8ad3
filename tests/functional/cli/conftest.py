"""Images and keys for the command line."""

from __future__ import annotations

import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.tools import require_tool

if TYPE_CHECKING:
    import pathlib

PARTITIONS = 24
PARTITION_MIB = 8
"""Twice the head and tail that are sealed of what no parser knows."""


@pytest.fixture
def key(tmp_path: pathlib.Path) -> pathlib.Path:
    """A key file as it should be."""
    path = tmp_path / "disk.key"
    path.touch(mode=0o600)
    path.write_bytes(secrets.token_bytes(32))
    return path


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    """A disk with one ext4 file system and a file."""
    require_tool("mkfs.ext4")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "payroll-2031.txt").write_text("payroll\n" * 500)
    path = tmp_path / "disk.img"
    subprocess.run(
        ["mkfs.ext4", "-q", "-d", tree, path, "32M"],
        check=True,
        timeout=60,
    )
    return path


@pytest.fixture
def slow_image(tmp_path: pathlib.Path) -> pathlib.Path:
    """A disk of whose 192 MiB all is sealed: long enough to interrupt."""
    require_tool("sfdisk")
    path = tmp_path / "slow.img"
    with path.open("wb") as stream:
        for _ in range(PARTITIONS * PARTITION_MIB + 4):
            stream.write(b"\xa5" * (1 << 20))
    table = "label: gpt\n" + f"size={PARTITION_MIB}MiB\n" * PARTITIONS
    subprocess.run(
        ["sfdisk", "-q", "--wipe", "always", path],
        input=table.encode(),
        check=True,
        timeout=60,
    )
    return path
