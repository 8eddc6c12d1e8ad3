"""Encrypted volumes are recognised by what the kernel says of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from vmsec.agent.devicemapper import is_crypt_number, is_dm_crypt
from vmsec.errors import ImageIOError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("uuid", "encrypted"),
    [
        ("CRYPT-LUKS2-0123-luks-x\n", True),
        ("CRYPT-PLAIN-swap\n", True),
        ("LVM-abcdef\n", False),
        ("\n", False),
    ],
)
def test_dm_crypt_volumes_are_told_from_others(
    tmp_path: Path, uuid: str, encrypted: bool
) -> None:
    (tmp_path / "253:7" / "dm").mkdir(parents=True)
    (tmp_path / "253:7" / "dm" / "uuid").write_text(uuid)
    assert is_crypt_number(os.makedev(253, 7), tmp_path) is encrypted
    assert not is_crypt_number(os.makedev(253, 8), tmp_path)


def test_file_is_no_dm_crypt_volume(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    assert not is_dm_crypt(tmp_path / "disk")
    with pytest.raises(ImageIOError):
        is_dm_crypt(tmp_path / "missing")
