"""What all daemons share: configuration, readiness, one bus for all."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.cli import require_one_line, run_vmsec
from tests.support.tools import require_tool

DAEMONS = ("agent", "allinone", "api", "controller", "kmc")
UNITS = pathlib.Path(__file__).parents[3] / "etc" / "systemd"
CONFIGURATION = 10


def run_daemon(
    name: str, *arguments: str | os.PathLike[str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"vmsec.cmd.{name}", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_config(directory: pathlib.Path, text: str) -> pathlib.Path:
    path = directory / "vmsec.conf"
    path.write_text(f"[DEFAULT]\nstate_path = {directory}/state\n{text}")
    return path


@pytest.mark.parametrize("name", DAEMONS)
def test_every_daemon_explains_itself(name: str) -> None:
    done = run_daemon(name, "--help")
    assert done.returncode == 0
    assert f"usage: vmsec-{name}" in done.stdout
    assert "--config-file" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", DAEMONS)
def test_a_wrong_value_ends_the_start_with_one_line(
    tmp_path: pathlib.Path, name: str
) -> None:
    config = write_config(tmp_path, "[api]\nthreads = many\n")
    done = run_daemon(name, "--config-file", config)
    assert done.returncode == CONFIGURATION
    assert done.stderr.startswith(f"vmsec-{name}: ")
    assert done.stderr.count("\n") == 1
    assert "many" in done.stderr


@pytest.mark.parametrize("name", [d for d in DAEMONS if d != "allinone"])
def test_a_daemon_of_its_own_needs_a_bus_that_reaches_others(
    tmp_path: pathlib.Path, name: str
) -> None:
    config = write_config(tmp_path, "[messaging]\ntransport_url = fake://\n")
    done = run_daemon(name, "--config-file", config)
    assert done.returncode == CONFIGURATION
    assert "fake://" in done.stderr
    assert "Traceback" not in done.stderr


def test_systemd_is_told_of_readiness_and_of_the_end(
    tmp_path: pathlib.Path,
) -> None:
    """The API needs no bus to start; it is the quickest of all."""
    config = write_config(
        tmp_path,
        f"[api]\nsocket = {tmp_path}/api.sock\n"
        "[messaging]\ntransport_url = rabbit://u:p@127.0.0.1:1/\n",
    )
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, "-m", "vmsec.cmd.api", "--config-file", config],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(64) == b"READY=1"
            process.send_signal(signal.SIGHUP)
            assert manager.recv(64).startswith(b"RELOADING=1")
            assert manager.recv(64) == b"READY=1"
            process.terminate()
            assert manager.recv(64) == b"STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("name", DAEMONS)
def test_systemd_takes_the_unit(name: str) -> None:
    require_tool("systemd-analyze")
    unit = UNITS / f"vmsec-{name}.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [
        line
        for line in done.stderr.splitlines()
        if f"vmsec-{name}" in line and "is not executable" not in line
    ]
    assert not complaints


def test_the_hook_is_installed_checked_and_removed(
    tmp_path: pathlib.Path,
) -> None:
    config = write_config(tmp_path, f"[agent]\nsocket = {tmp_path}/a.sock\n")
    options = ("--directory", tmp_path / "hooks", "--config-file", config)
    require_one_line(run_vmsec("hook", "check", *options), CONFIGURATION)
    installed = run_vmsec("hook", "install", *options, "-f", "json")
    assert b"systemctl reload libvirtd" in installed.stdout
    hook = tmp_path / "hooks" / "qemu.d" / "50-vmsec"
    assert hook.stat().st_mode & 0o777 == 0o755
    assert run_vmsec("hook", "check", *options).returncode == 0
    hook.chmod(0o644)
    require_one_line(run_vmsec("hook", "check", *options), CONFIGURATION)
    assert run_vmsec("hook", "remove", *options).returncode == 0
    assert not hook.exists()


def test_a_signal_during_the_start_ends_it_in_order(
    tmp_path: pathlib.Path,
) -> None:
    """An operator who changes his mind leaves no TPM process behind."""
    require_tool("swtpm")
    config = write_config(
        tmp_path,
        f"host = testnode\n[api]\nsocket = {tmp_path}/api.sock\n"
        f"[agent]\nsocket = {tmp_path}/agent.sock\n",
    )
    command = [sys.executable, "-m", "vmsec.cmd.allinone"]
    process = subprocess.Popen(
        [*command, "--config-file", config],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lock = tmp_path / "state" / "kmc" / "lock"
    limit = time.monotonic() + 60
    while not lock.exists():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(90) == 0
    assert not (tmp_path / "api.sock").exists()
    assert not [
        entry
        for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline")
        if entry.exists() and str(tmp_path).encode() in entry.read_bytes()
    ]
