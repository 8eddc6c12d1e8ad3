"""One process per role and state directory."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from vmsec.cmd.rolelock import RoleLock
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    import pathlib


def test_a_role_is_taken_once(tmp_path: pathlib.Path) -> None:
    with (
        RoleLock(tmp_path, ["kmc", "api"]),
        pytest.raises(ConfigurationError, match="api of it is running"),
    ):
        RoleLock(tmp_path, ["agent", "api"]).__enter__()


def test_a_refused_copy_keeps_none_of_its_locks(
    tmp_path: pathlib.Path,
) -> None:
    with RoleLock(tmp_path, ["api"]):
        with pytest.raises(ConfigurationError):
            RoleLock(tmp_path, ["agent", "api"]).__enter__()
        with RoleLock(tmp_path, ["agent"]):
            pass


def test_a_released_role_can_be_taken_again(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with RoleLock(tmp_path, ["kmc"]):
            pass


def test_other_states_do_not_meet(tmp_path: pathlib.Path) -> None:
    with RoleLock(tmp_path / "a", ["kmc"]), RoleLock(tmp_path / "b", ["kmc"]):
        pass


def test_a_roles_directory_is_for_its_user_only(
    tmp_path: pathlib.Path,
) -> None:
    with RoleLock(tmp_path / "state", ["kmc"]):
        mode = (tmp_path / "state" / "kmc").stat().st_mode
    assert stat.S_IMODE(mode) == 0o700


def test_a_link_in_place_of_the_lock_is_not_followed(
    tmp_path: pathlib.Path,
) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "kmc").mkdir()
    (tmp_path / "kmc" / "lock").symlink_to(target)
    with pytest.raises(ConfigurationError):
        RoleLock(tmp_path, ["kmc"]).__enter__()
    assert target.read_text() == "kept"


def test_a_state_that_cannot_be_made_is_a_configuration_error(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="state_path"):
        RoleLock(tmp_path / "file" / "state", ["kmc"]).__enter__()
