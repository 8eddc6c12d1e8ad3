"""Say which real tools a test needs; missing ones skip it, or fail it."""

from __future__ import annotations

import os
import shutil

import pytest


def required(name: str) -> bool:
    """Whether VMSEC_TEST_REQUIRE turns a missing tool into a failure."""
    wanted = os.environ.get("VMSEC_TEST_REQUIRE", "").split(",")
    return "all" in wanted or name in wanted


def require_tool(*names: str) -> None:
    """Skip the test unless all programs are installed; fail if required."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in names:
        if shutil.which(name, path=path) is None:
            missing(name, f"{name} is not installed")


def require_root() -> None:
    """Skip the test unless it runs as root; fail if `root` is required."""
    if os.geteuid() != 0:
        missing("root", "needs root")


def missing(name: str, reason: str) -> None:
    """Skip, or fail where VMSEC_TEST_REQUIRE names it."""
    if required(name):
        pytest.fail(f"required by VMSEC_TEST_REQUIRE: {reason}")
    pytest.skip(reason)
