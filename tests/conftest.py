"""Fixtures for every suite; unit tests may neither connect nor run programs."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
from typing import Any

import pytest

os.environ["PATH"] += ":/usr/sbin:/sbin"
UNIT = pathlib.Path(__file__).parent / "unit"


@pytest.fixture(autouse=True)
def _isolation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forbid sockets and processes in unit tests."""
    if UNIT not in pathlib.Path(request.path).parents:
        return

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a unit test may not do this")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
