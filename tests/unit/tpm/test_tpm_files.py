"""Pins, names and paths, without a TPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmsec.encoding import encode
from vmsec.errors import ConfigurationError, SchemaError, TPMIdentityError
from vmsec.tpm import SoftwareTPM, open_tpm
from vmsec.tpm.approvalkey import read_approval_key
from vmsec.tpm.objects import vm_key_template
from vmsec.tpm.pin import Pin
from vmsec.tpm.swtpm import MAX_SOCKET_PATH_BYTES
from vmsec.tpm.tss import TPM2B_PRIVATE

if TYPE_CHECKING:
    from pathlib import Path


def test_the_first_key_is_pinned_and_no_other_passes(tmp_path: Path) -> None:
    pin = Pin(tmp_path / "srk.pub", "the storage root key")
    assert pin.read() is None
    pin.verify(b"anything, for nothing is pinned")
    pin.require(b"one")
    pin.require(b"one")
    for refuse in (pin.require, pin.verify):
        with pytest.raises(TPMIdentityError, match=r"srk\.pub.*remove"):
            refuse(b"two")
    assert Pin(tmp_path / "srk.pub", "again").read() == b"one"
    assert (tmp_path / "srk.pub").stat().st_mode & 0o777 == 0o600


def test_a_pin_that_cannot_be_read_is_not_a_missing_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "srk.pub").mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        Pin(tmp_path / "srk.pub", "x").require(b"one")


@pytest.mark.parametrize(
    "name", ["", "ca", "../up", "a/b", "-x", ".x", "x" * 65, "a b", "a\n"]
)
def test_names_that_would_leave_the_directory_are_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        SoftwareTPM(tmp_path, name)


def test_a_path_too_long_for_a_socket_names_path_and_limit(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match=r"/tpm/sock: .* 102;"):
        SoftwareTPM(tmp_path / ("x" * MAX_SOCKET_PATH_BYTES), "tpm")


@pytest.mark.parametrize("bad", ["a,mode=0666", "a b", "a\tb"])
def test_paths_that_swtpm_would_misread_are_refused(
    tmp_path: Path, bad: str
) -> None:
    with pytest.raises(ConfigurationError, match="commas"):
        SoftwareTPM(tmp_path / bad, "tpm")


@pytest.mark.parametrize("tcti", ["", "mssim:", "swtpmx", "cmd:id", "/dev/x"])
def test_unknown_transports_are_refused(tcti: str) -> None:
    with pytest.raises(ConfigurationError, match="swtpm:path=PATH"):
        open_tpm(tcti)


def test_an_approval_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "approval-key"
    assert read_approval_key(path) is None
    other = bytes(vm_key_template(bytes(32)).marshal())
    private = bytes(TPM2B_PRIVATE(b"x" * 40).marshal())
    for data in (
        b"",
        encode({"public": other}),
        encode({"public": other + b"\0", "private": private}),
        encode({"public": other, "private": private}),
    ):
        path.write_bytes(data)
        with pytest.raises(SchemaError, match="approval-key"):
            read_approval_key(path)
