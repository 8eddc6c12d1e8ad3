"""Make a software TPM once, with endorsement certificates of a private CA.

Layout below one directory, all of it 0700::

    ca/            root and issuing CA; what a verifier trusts lies here
    NAME/state/    the TPM (one file of 6 KB)
    NAME/certs/    its EK certificates (DER)
    NAME/setup.log

Everything is built in hidden temporary directories, synced and renamed, so
that a TPM or a CA is there whole or not at all. Neither root nor files below
/etc or a home directory are needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vmsec.durable import sync_directory, write_durable
from vmsec.errors import ConfigurationError, TPMError

if TYPE_CHECKING:
    from collections.abc import Iterator

SETUP_SECONDS = 120
"""For swtpm_setup, which takes one second on an idle core: it makes RSA
keys."""

_CA = "ca"


def manufacture(directory: Path, name: str) -> None:
    """Make the TPM ``directory/name`` unless it is there.

    Args:
        directory: Holds the CA and the TPMs; made if missing.
        name: The TPM's name, also in its certificates.

    Raises:
        ConfigurationError: A tool is missing, or the directory is unusable.
        TPMError: swtpm_setup failed.

    Crash:
        The TPM is there or is not; what an interrupted run left is removed
        by the next one.
    """
    target = directory / name
    if (target / "state").is_dir():
        return
    with _exclusive(directory), contextlib.ExitStack() as leave:
        if (target / "state").is_dir():
            return
        _remove_leftovers(directory)
        new = _temporary(directory, leave)
        authority = directory / _CA
        if authority.is_dir():
            _run_setup(new, authority, name)
        else:
            fresh = _temporary(directory, leave)
            _run_setup(new, fresh, name)
            _publish(fresh, authority)
        _publish(new, target)


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    """Let one process at a time manufacture here."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / ".lock").open("wb")
    except OSError as err:
        raise ConfigurationError(
            f"{directory}: cannot be used for software TPMs: {err.strerror}"
        ) from err
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(directory: Path) -> None:
    for path in directory.glob(".new-*"):
        shutil.rmtree(path, ignore_errors=True)


def _temporary(directory: Path, leave: contextlib.ExitStack) -> Path:
    path = Path(tempfile.mkdtemp(prefix=".new-", dir=directory))
    leave.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def sync_tree(directory: Path) -> None:
    """Make a directory and all files below it durable.

    Raises:
        TPMError: The system refused.
    """
    try:
        for place, _directories, files in os.walk(directory):
            for name in files:
                _sync_file(Path(place) / name)
            sync_directory(Path(place))
    except OSError as err:
        raise TPMError(f"{directory}: cannot sync: {err.strerror}") from err


def _sync_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        os.fsync(file.fileno())


def _publish(new: Path, target: Path) -> None:
    """Sync all of a new directory, then give it its name."""
    sync_tree(new)
    try:
        new.rename(target)
    except OSError as err:
        raise ConfigurationError(
            f"{target} is in the way of a new software TPM: {err.strerror}"
        ) from err
    sync_directory(target.parent)


def _run_setup(new: Path, authority: Path, name: str) -> None:
    """Run swtpm_setup with private configuration files."""
    state, certificates = new / "state", new / "certs"
    state.mkdir(mode=0o700)
    certificates.mkdir(mode=0o700)
    configuration = _write_configuration(new, authority)
    log = new / "setup.log"
    command = [
        *("swtpm_setup", "--tpm2", "--tpmstate", str(state)),
        *("--config", str(configuration), "--create-ek-cert"),
        *("--create-platform-cert", "--pcr-banks", "sha256"),
        *("--lock-nvram", "--overwrite", "--vmid", name),
        *("--write-ek-cert-files", str(certificates)),
        *("--logfile", str(log)),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SETUP_SECONDS,
            check=False,
        )
    except FileNotFoundError as err:
        raise _missing("swtpm_setup") from err
    except subprocess.TimeoutExpired as err:
        raise TPMError(f"software TPM {name}: swtpm_setup hangs") from err
    if done.returncode:
        raise TPMError(f"software TPM {name}: {_last_line(log)}")


def _write_configuration(new: Path, authority: Path) -> Path:
    """Write swtpm_setup's and swtpm_localca's files; return the first."""
    # Debian's binary has an underscore, the manual page a hyphen
    tool = shutil.which("swtpm_localca")
    if tool is None:
        raise _missing("swtpm_localca")
    _write(
        authority / "localca.conf",
        f"statedir = {authority}",
        f"signingkey = {authority}/signkey.pem",
        f"issuercert = {authority}/issuercert.pem",
        f"certserial = {authority}/certserial",
    )
    _write(
        authority / "localca.options",
        "--platform-manufacturer vmsec",
        "--platform-version 1.0",
        "--platform-model vmsec",
    )
    return _write(
        new / "setup.conf",
        f"create_certs_tool = {tool}",
        f"create_certs_tool_config = {authority}/localca.conf",
        f"create_certs_tool_options = {authority}/localca.options",
        "active_pcr_banks = sha256",
    )


def _write(path: Path, *lines: str) -> Path:
    write_durable(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def _missing(tool: str) -> ConfigurationError:
    return ConfigurationError(
        f"{tool} is not installed; install the packages swtpm and swtpm-tools"
    )


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "swtpm_setup failed without a word"
