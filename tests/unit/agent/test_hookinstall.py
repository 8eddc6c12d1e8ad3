"""The hook's script is whole, executable and this agent's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vmsec.agent.hookinstall import (
    HOOK_NAME,
    check_hook,
    install_hook,
    remove_hook,
    render_hook,
)
from vmsec.errors import ConfigurationError

SOCKET, STATE = Path("/run/vmsec/agent.sock"), Path("/var/lib/vmsec/agent")


def test_first_script_of_all_asks_for_a_reload(tmp_path: Path) -> None:
    assert install_hook(tmp_path, SOCKET, STATE)
    assert not install_hook(tmp_path, SOCKET, STATE)


def test_script_beside_others_needs_no_reload(tmp_path: Path) -> None:
    other = tmp_path / "qemu"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert not install_hook(tmp_path, SOCKET, STATE)


def test_script_that_libvirt_ignores_counts_for_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "qemu").write_text("#!/bin/sh\n")
    assert install_hook(tmp_path, SOCKET, STATE)


def test_installed_hook_passes_its_check(tmp_path: Path) -> None:
    install_hook(tmp_path, SOCKET, STATE, 30)
    check_hook(tmp_path, SOCKET, STATE, 30)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.chmod(0o644),
        lambda path: path.write_bytes(path.read_bytes() + b"\n"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_spoilt_hook_fails_its_check(tmp_path: Path, spoil: object) -> None:
    install_hook(tmp_path, SOCKET, STATE)
    assert callable(spoil)
    spoil(tmp_path / "qemu.d" / HOOK_NAME)
    with pytest.raises(ConfigurationError):
        check_hook(tmp_path, SOCKET, STATE)


def test_hook_of_another_agent_fails_the_check(tmp_path: Path) -> None:
    install_hook(tmp_path, SOCKET, STATE)
    with pytest.raises(ConfigurationError, match="not the hook of this agent"):
        check_hook(tmp_path, Path("/run/other.sock"), STATE)


def test_removed_hook_is_gone_and_may_be_removed_again(
    tmp_path: Path,
) -> None:
    install_hook(tmp_path, SOCKET, STATE)
    remove_hook(tmp_path)
    remove_hook(tmp_path)
    remove_hook(tmp_path / "never")
    assert not list((tmp_path / "qemu.d").iterdir())


def test_odd_paths_are_quoted_for_the_shell() -> None:
    odd = Path("/run/a b;$(reboot)'/agent.sock")
    script = render_hook(odd, STATE).decode()
    words = shlex.split(script, comments=True)
    assert words[words.index("--socket") + 1] == str(odd)


def test_directory_that_cannot_be_made_is_the_operators_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        install_hook(tmp_path / "file", SOCKET, STATE)
