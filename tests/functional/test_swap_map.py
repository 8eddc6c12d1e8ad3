"""The map of swap volumes that mkswap made, judged by blkid."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.ext import FileSource
from tests.support.tools import require_tool
from vmsec.ondisk.swap import PAGE_BYTES, is_swap, map_swap

if TYPE_CHECKING:
    import pathlib

LABEL = "vmsecname"
IDENTITY = "3a1f7c52-9a4b-4f0e-8a6b-b1f4f3d2c1e0"


def tool(*command: object, check: bool = True) -> str:
    done = subprocess.run(
        list(map(str, command)), text=True, check=check, capture_output=True,
        timeout=60,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(params=PAGE_BYTES)
def volume(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> pathlib.Path:
    require_tool("mkswap", "blkid")
    path = tmp_path / "swap.img"
    path.write_bytes(b"\xa5" * (8 << 20))
    page = request.param
    tool("mkswap", "-f", "-p", page, "-L", LABEL, "-U", IDENTITY, path)
    return path


def test_without_the_mapped_page_no_tool_finds_a_swap(
    volume: pathlib.Path,
) -> None:
    assert "swap" in tool("blkid", "-p", "-o", "export", volume)
    found = map_swap(FileSource(volume))
    data = bytearray(volume.read_bytes())
    for offset, length, _ in found.extents:
        data[offset : offset + length] = bytes(length)
    assert LABEL.encode() not in data
    assert data.count(b"\xa5") > (7 << 20)
    volume.write_bytes(data)
    assert tool("blkid", "-p", "-o", "export", volume, check=False) == ""
    assert not is_swap(FileSource(volume))
