"""A software TPM is made once and whole, and never outlives its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.support.tpm import kill, require_swtpm, send
from vmsec.errors import ConfigurationError, TPMError, TPMUnavailableError
from vmsec.tpm import SoftwareTPM, open_tpm
from vmsec.tpm.manufacture import manufacture

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
OWNER = """
import pathlib, sys, time
from vmsec.tpm import SoftwareTPM
software = SoftwareTPM(pathlib.Path(sys.argv[1]), "node").start()
print(software.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return False
    return state[0] != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not alive(pid)


@pytest.fixture
def owner(tpm_directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that runs the node's TPM, and the TPM's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tpm_directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_dies_with_its_owner_even_by_sigkill(
    owner: tuple[subprocess.Popen[str], int], tpm_directory: Path
) -> None:
    process, pid = owner
    assert alive(pid)
    process.kill()
    process.wait()
    assert gone(pid)
    with SoftwareTPM(tpm_directory, "node") as again:
        assert again.running, "its stale sockets and lock are no obstacle"


def test_a_tpm_that_runs_elsewhere_is_left_alone(
    owner: tuple[subprocess.Popen[str], int], tpm_directory: Path
) -> None:
    software = SoftwareTPM(tpm_directory, "node")
    with pytest.raises(TPMUnavailableError, match="runs already"):
        software.start()
    assert not software.running
    software.stop()
    assert alive(owner[1])
    open_tpm(software.tcti).close()


def test_a_swtpm_started_by_hand_is_noticed(tpm_directory: Path) -> None:
    state, path = tpm_directory / "node/state", tpm_directory / "hand"
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={path}"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.005)
        with pytest.raises(TPMUnavailableError, match="runs already"):
            SoftwareTPM(tpm_directory, "node").start()
    finally:
        process.kill()
        process.wait()


def test_its_sockets_and_files_are_for_its_user_only(
    node_software: SoftwareTPM, tpm_directory: Path
) -> None:
    directory = tpm_directory / "node"
    for name in ("sock", "sock.ctrl"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    for path in (directory, directory / "state", tpm_directory / "ca"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert node_software.running


def test_start_and_stop_may_be_repeated(node_software: SoftwareTPM) -> None:
    pid = node_software.pid
    node_software.start()
    assert node_software.pid == pid
    node_software.stop()
    node_software.stop()
    assert (node_software.running, node_software.pid) == (False, None)
    node_software.start()
    kill(node_software)
    node_software.start()
    assert node_software.running


def test_a_hung_swtpm_is_stopped_all_the_same(
    node_software: SoftwareTPM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmsec.tpm.swtpm.STOP_SECONDS", 0.2)
    pid = node_software.pid
    assert pid is not None
    send(node_software, signal.SIGSTOP)
    node_software.stop()
    assert gone(pid)


def test_certificates_chain_to_the_private_ca(tpm_directory: Path) -> None:
    issuer = x509.load_pem_x509_certificate(
        (tpm_directory / "ca/issuercert.pem").read_bytes()
    )
    root = x509.load_pem_x509_certificate(
        (tpm_directory / "ca/swtpm-localca-rootca-cert.pem").read_bytes()
    )
    issuer.verify_directly_issued_by(root)
    for name in ("kmc", "node", "other"):
        found = list((tpm_directory / name / "certs").iterdir())
        assert found
        for path in found:
            certificate = x509.load_der_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(issuer)
            assert name in certificate.subject.rfc4514_string()


def test_an_interrupted_manufacture_is_begun_again(tmp_path: Path) -> None:
    require_swtpm()
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    while not list(tmp_path.glob(".new-*/state/tpm2-00.permall")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "node").exists()
    with SoftwareTPM(tmp_path, "node") as software:
        open_tpm(software.tcti).close()
    assert list(tmp_path.glob(".new-*")) == []
    assert (tmp_path / "ca/issuercert.pem").exists()


def test_a_failed_manufacture_leaves_nothing_and_says_why(
    tmp_path: Path, tpm_directory: Path
) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/signkey.pem").write_text("no key")
    (tmp_path / "ca/issuercert.pem").write_text("no certificate")
    with pytest.raises(TPMError, match="software TPM node: "):
        manufacture(tmp_path, "node")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "ca"]
    assert (tpm_directory / "node").exists()


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    require_swtpm()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        SoftwareTPM(tmp_path / "file", "node").start()


def test_missing_tools_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match="swtpm-tools"):
        SoftwareTPM(tmp_path, "node").start()
