"""Ctrl-C and worse in the middle of a seal, and progress on a terminal."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from tests.support.cli import (
    require_one_line,
    run_on_terminal,
    run_vmsec,
    start_vmsec,
    vmsec_json,
)

if TYPE_CHECKING:
    import pathlib
    import subprocess
    from collections.abc import Callable

EXIT_SIGINT = 130
ESCAPE = b"\x1b"


def interrupt(
    process: subprocess.Popen[bytes], when: Callable[[], bool], number: int
) -> bytes:
    """Send a signal as soon as ``when`` is true; return standard error."""
    limit = time.monotonic() + 60
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return err


def marked(image: pathlib.Path) -> Callable[[], bool]:
    """Whether the mark, the first thing written, is in the image."""
    before = first_sector(image)
    return lambda: first_sector(image) != before


def first_sector(image: pathlib.Path) -> bytes:
    with image.open("rb") as stream:
        return stream.read(512)


def journal_of(image: pathlib.Path) -> pathlib.Path:
    return image.with_name(image.name + ".vmsec-journal")


def test_ctrl_c_while_writing_leaves_the_journal_and_says_what_to_do(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    original = slow_image.read_bytes()
    process = start_vmsec("image", "seal", slow_image, "--key-file", key)
    err = interrupt(process, marked(slow_image), signal.SIGINT).decode()
    assert process.returncode == EXIT_SIGINT
    assert err.startswith("vmsec: interrupted; ")
    assert err.count("\n") == 1
    assert f"vmsec image recover {slow_image}" in err
    assert journal_of(slow_image).exists()
    status = vmsec_json("image", "status", slow_image)
    assert status["state"] == "interrupted"
    recovered = vmsec_json("image", "recover", slow_image)
    assert recovered == {"action": "replayed", "state": "sealed"}
    again = vmsec_json("image", "recover", slow_image)
    assert again == {"action": "none", "state": "sealed"}
    vmsec_json("image", "unseal", slow_image, "--key-file", key)
    assert slow_image.read_bytes() == original


def test_ctrl_c_before_the_journal_is_whole_leaves_the_image_plain(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    original = slow_image.read_bytes()
    draft = slow_image.with_name(slow_image.name + ".vmsec-journal.draft")
    process = start_vmsec("image", "seal", slow_image, "--key-file", key)
    err = interrupt(process, draft.exists, signal.SIGINT).decode()
    assert process.returncode == EXIT_SIGINT
    assert "is plain and whole" in err
    assert slow_image.read_bytes() == original


def test_a_killed_seal_is_rolled_back_with_the_key(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    original = slow_image.read_bytes()
    process = start_vmsec("image", "seal", slow_image, "--key-file", key)
    interrupt(process, marked(slow_image), signal.SIGKILL)
    assert vmsec_json("image", "status", slow_image)["state"] == "interrupted"
    rolled = vmsec_json(
        "image", "recover", slow_image, "--roll-back", "--key-file", key
    )
    assert rolled == {"action": "rolled back", "state": "plain"}
    assert slow_image.read_bytes() == original
    names = {path.name for path in slow_image.parent.iterdir()}
    assert names == {slow_image.name, key.name}


def test_a_second_seal_of_an_image_in_use_is_refused_as_busy(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    draft = slow_image.with_name(slow_image.name + ".vmsec-journal.draft")
    first = start_vmsec("image", "seal", slow_image, "--key-file", key)
    while not draft.exists():
        assert first.poll() is None
    second = run_vmsec("image", "seal", slow_image, "--key-file", key)
    first.communicate(timeout=60)
    require_one_line(second, 20)
    assert first.returncode == 0


def test_progress_is_shown_on_a_terminal(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    status, seen = run_on_terminal(
        "image", "seal", slow_image, "--key-file", key
    )
    assert status == 0
    assert ESCAPE in seen
    assert b"sealing slow.img" in seen


def test_quiet_shows_no_progress_on_a_terminal(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    status, seen = run_on_terminal(
        "--quiet", "image", "seal", slow_image, "--key-file", key
    )
    assert status == 0
    assert seen == b""


def test_a_pipe_gets_no_progress(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    done = run_vmsec("image", "seal", slow_image, "--key-file", key)
    assert done.returncode == 0
    assert done.stderr == b""
    assert ESCAPE not in done.stdout
