"""Every command explains itself, and completion knows all of them."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess

import pytest

from tests.support.cli import run_vmsec
from tests.support.tools import require_tool

ROOT = pathlib.Path(__file__).parents[3]
COMMANDS = sorted(
    entry.name.replace("_", " ")
    for entry in importlib.metadata.distribution("vmsec").entry_points
    if entry.group == "vmsec.cli"
)


def test_the_commands_are_those_of_the_design() -> None:
    assert (
        sorted(
            ["doctor"]
            + [f"hook {verb}" for verb in ("check", "install", "remove")]
            + [f"key {verb}" for verb in ("list", "show")]
            + [f"node {verb}" for verb in ("enroll", "list")]
            + [
                f"image {verb}"
                for verb in (
                    *("diff", "inspect", "map", "recover", "seal"),
                    *("status", "unseal", "verify"),
                )
            ]
            + [
                f"vm {verb}"
                for verb in (
                    *("list", "protect", "rekey", "seal", "show", "unseal"),
                )
            ]
        )
        == COMMANDS
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples_and_formats(command: str) -> None:
    done = run_vmsec(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert f"usage: vmsec {command}" in text
    assert "examples:" in text
    assert "vmsec" in text.partition("examples:")[2]
    assert "{csv,json,table,value,yaml}" in text
    assert done.stderr == b""


def test_help_lists_every_command_with_one_line() -> None:
    text = run_vmsec("--help").stdout.decode()
    for command in COMMANDS:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"  {command} ")
        ]
        assert len(line.removeprefix(f"  {command}").strip()) > 10


def test_no_arguments_show_the_help() -> None:
    assert run_vmsec().stdout == run_vmsec("--help").stdout


def test_version_is_that_of_the_package() -> None:
    version = importlib.metadata.version("vmsec")
    assert run_vmsec("--version").stdout.decode().split()[-1] == version


def test_the_completion_in_the_tree_is_what_the_command_prints() -> None:
    """Renew it with: vmsec complete > etc/bash_completion.d/vmsec."""
    kept = (ROOT / "etc/bash_completion.d/vmsec").read_bytes()
    assert run_vmsec("complete").stdout == kept


def test_the_completion_completes() -> None:
    require_tool("bash")
    library = pathlib.Path("/usr/share/bash-completion/bash_completion")
    if not library.exists():
        pytest.skip("bash-completion is not installed")
    script = f"""
. {library}
. {ROOT}/etc/bash_completion.d/vmsec
COMP_WORDS=(vmsec image s) COMP_CWORD=2 COMP_LINE='vmsec image s'
COMP_POINT=${{#COMP_LINE}}
_vmsec
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == [b"seal", b"status"]
