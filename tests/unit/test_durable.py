"""Small files are whole, old or new, whatever fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from vmsec.durable import remove_durable, write_durable
from vmsec.errors import ImageFullError, ImageIOError


def failing(number: int) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def test_the_file_holds_the_data_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o777)
    try:
        write_durable(path, b"x" * 100_000)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"x" * 100_000
    assert path.stat().st_mode & 0o7777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_asked_for_is_the_mode_of_the_file(tmp_path: Path) -> None:
    write_durable(tmp_path / "file", b"", mode=0o644)
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o644


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"victim")
    path.symlink_to(victim)
    write_durable(path, b"new")
    assert victim.read_bytes() == b"victim"
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ImageFullError),
        (errno.EDQUOT, ImageFullError),
        (errno.EIO, ImageIOError),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    kind: type[Exception],
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(kind, match="file: "):
        write_durable(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_durable(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_data_is_synced_before_the_rename_and_the_directory_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order = tmp_path / "file", []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append((name == tmp_path, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_durable(path, b"data")
    assert order == [(False, False), (True, True)]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageIOError, match="none/file: cannot write"):
        write_durable(tmp_path / "none" / "file", b"")


def test_removing_is_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durable(path, b"data")
    remove_durable(path)
    remove_durable(path)
    assert not path.exists()


def test_removing_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(ImageIOError, match="cannot remove"):
        remove_durable(tmp_path / "directory")
