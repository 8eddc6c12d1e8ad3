"""One plain disk for all attacks, and fresh copies of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import images
from tests.support.images import Store, seal
from tests.support.refusal import copy
from tests.support.tools import require_tool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tool("mke2fs", "sfdisk")
    path = tmp_path_factory.mktemp("plain") / "disk.img"
    return images.ext4_on_mbr(path)


@pytest.fixture
def disk(plain: Path, tmp_path: Path) -> Path:
    return copy(plain, tmp_path / "disk.img")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def sealed(disk: Path, store: Store) -> Path:
    seal(disk, store)
    return disk
