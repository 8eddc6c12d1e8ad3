"""What the command line refuses: one line, and the status of its family."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import require_one_line, run_vmsec, vmsec_json

if TYPE_CHECKING:
    import pathlib

USAGE, CONFIGURATION, IMAGE, SEAL, MESSAGES = 2, 10, 20, 30, 70


def seal(image: pathlib.Path, key: pathlib.Path) -> None:
    vmsec_json("image", "seal", image, "--key-file", key)


def test_a_wrong_key_writes_nothing(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    seal(image, key)
    before = image.read_bytes()
    wrong = secrets.token_bytes(32)
    for verb in ("unseal", "verify"):
        done = run_vmsec("image", verb, image, "--key-file", "-", stdin=wrong)
        assert "wrong key" in require_one_line(done, SEAL)
    assert image.read_bytes() == before


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_key_may_be_hexadecimal_on_standard_input(
    image: pathlib.Path, key: pathlib.Path, end: str
) -> None:
    seal(image, key)
    text = (key.read_bytes().hex() + end).encode()
    done = run_vmsec("image", "unseal", image, "--key-file", "-", stdin=text)
    assert done.returncode == 0, done.stderr


def test_a_key_may_come_from_standard_input_as_bytes(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    seal(image, key)
    done = run_vmsec(
        "image", "unseal", image, "--key-file", "-", stdin=key.read_bytes()
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 31,
        b"\0" * 33,
        b"0" * 63,
        b"0" * 65,
        b"g" * 64,
        b"0" * 64 + b"\n\n",
        b"\0" * 4096,
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(
    image: pathlib.Path, content: bytes
) -> None:
    before = image.read_bytes()
    done = run_vmsec("image", "seal", image, "--key-file", "-", stdin=content)
    assert "32 bytes" in require_one_line(done, CONFIGURATION)
    assert image.read_bytes() == before


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666])
def test_a_key_file_that_everybody_may_read_is_refused(
    image: pathlib.Path, key: pathlib.Path, mode: int
) -> None:
    key.chmod(mode)
    done = run_vmsec("image", "seal", image, "--key-file", key)
    line = require_one_line(done, CONFIGURATION)
    assert "everybody may read" in line
    assert str(key) in line
    assert run_vmsec("image", "status", image).stdout.count(b"plain") == 1


def test_the_key_is_in_no_error(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    text = key.read_bytes().hex()[:-1] + "\n"
    done = run_vmsec(
        *("image", "seal", image, "--key-file", "-", "--debug"),
        stdin=text.encode(),
    )
    assert done.returncode == CONFIGURATION
    assert text.strip() not in done.stderr.decode()


@pytest.mark.parametrize(
    "magic",
    [b"QFI\xfb", b"KDMV", b"# Disk DescriptorFile", b"vhdxfile", b"conectix"],
)
def test_a_container_header_that_a_guest_forged_is_never_followed(
    image: pathlib.Path, key: pathlib.Path, magic: bytes
) -> None:
    with image.open("r+b") as stream:
        stream.write(magic)
    before = image.read_bytes()
    for verb in ("status", "inspect"):
        line = require_one_line(run_vmsec("image", verb, image), IMAGE)
        assert "--format raw" in line
    done = run_vmsec("image", "seal", image, "--key-file", key)
    require_one_line(done, IMAGE)
    assert image.read_bytes() == before
    status = vmsec_json("image", "status", image, "--format", "raw")
    assert status["state"] == "plain"


def test_sealing_twice_is_refused(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    seal(image, key)
    done = run_vmsec("image", "seal", image, "--key-file", key)
    assert "sealed already" in require_one_line(done, SEAL)


def test_unsealing_a_plain_image_is_refused(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    done = run_vmsec("image", "unseal", image, "--key-file", key)
    assert "not sealed" in require_one_line(done, SEAL)


def test_an_image_that_is_not_there_is_an_image_error() -> None:
    done = run_vmsec("image", "status", "/nonexistent/disk.img")
    assert "/nonexistent/disk.img" in require_one_line(done, IMAGE)


def test_a_uuid_that_is_none_is_a_configuration_error(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    done = run_vmsec("image", "seal", image, "--key-file", key, "--vm", "web1")
    assert "web1" in require_one_line(done, CONFIGURATION)


def test_an_unknown_column_is_named_with_the_known_ones(
    image: pathlib.Path,
) -> None:
    done = run_vmsec("image", "status", image, "-c", "colour")
    assert "state" in require_one_line(done, CONFIGURATION)


def test_rolling_back_needs_the_key(image: pathlib.Path) -> None:
    done = run_vmsec("image", "recover", image, "--roll-back")
    assert "--key-file" in require_one_line(done, CONFIGURATION)


@pytest.mark.parametrize(
    "words", [("vm", "list"), ("key", "list"), ("node", "list"), ("doctor",)]
)
def test_a_service_that_does_not_run_is_a_message_error(
    tmp_path: pathlib.Path, words: tuple[str, ...]
) -> None:
    missing = tmp_path / "api.sock"
    done = run_vmsec(*words, "--api-socket", missing)
    line = require_one_line(done, MESSAGES)
    assert str(missing) in line
    assert "running" in line


def test_whatever_else_listens_there_is_not_taken_for_the_api(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        done = run_vmsec("vm", "list", "--api-socket", path)
    require_one_line(done, MESSAGES)


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("image", "frobnicate"),
        ("image", "seal"),
        ("image", "status"),
        ("image", "status", "x", "--level", "none"),
        ("-v",),
    ],
)
def test_wrong_usage_has_status_2_and_names_the_way_out(
    words: tuple[str, ...],
) -> None:
    done = run_vmsec(*words)
    assert done.returncode == USAGE
    text = done.stderr.decode()
    assert "vmsec" in text
    assert "Traceback" not in text


def test_an_argument_is_never_the_key() -> None:
    """There is no option that takes the key itself (V101)."""
    done = run_vmsec("image", "seal", "--help")
    assert b"--key " not in done.stdout


def test_a_traceback_needs_debug() -> None:
    plain = run_vmsec("image", "status", "/nonexistent")
    debug = run_vmsec("image", "status", "/nonexistent", "--debug")
    assert b"Traceback" not in plain.stderr
    assert b"Traceback" in debug.stderr
    assert plain.returncode == debug.returncode == IMAGE
