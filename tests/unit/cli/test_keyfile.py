"""Key files: what is a key, who may read it, and that it is never shown."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.cli.keyfile import MAX_KEY_FILE_BYTES, read_key
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    import pathlib

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    "content",
    [
        KEY,
        KEY.hex().encode(),
        KEY.hex().upper().encode(),
        KEY.hex().encode() + b"\n",
        KEY.hex().encode() + b"\r\n",
    ],
)
def test_bytes_and_hexadecimal_digits_are_keys(
    path: pathlib.Path, content: bytes
) -> None:
    path.write_bytes(content)
    assert read_key(str(path)).reveal() == KEY


@given(content=st.binary(max_size=80).filter(lambda b: len(b) != 32))
def test_anything_else_is_refused_without_being_shown(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("k") / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    text = content.decode("latin-1").strip()
    digits = all(char in "0123456789abcdefABCDEF" for char in text)
    if len(text) == 64 and digits:
        return
    with pytest.raises(ConfigurationError) as caught:
        read_key(str(path))
    assert str(caught.value).startswith(f"{path}: not a key")


def test_a_huge_file_is_not_read_to_its_end(path: pathlib.Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ConfigurationError, match="not a key"):
        read_key(str(path))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o664])
def test_a_file_for_everybody_is_refused_before_it_is_read(
    path: pathlib.Path, mode: int
) -> None:
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="everybody"):
        read_key(str(path))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_file_for_owner_and_group_is_taken(
    path: pathlib.Path, mode: int
) -> None:
    path.write_bytes(KEY)
    path.chmod(mode)
    assert len(read_key(str(path))) == 32


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the key file"):
        read_key(str(tmp_path / "none"))


class Trickle(io.RawIOBase):
    """A pipe whose writer gives one byte at a time."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        piece, self._left = self._left[:1], self._left[1:]
        return piece


def test_standard_input_may_come_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stdin:
        buffer: Any = Trickle(KEY)

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert read_key("-").reveal() == KEY


def test_the_limit_is_the_longest_form() -> None:
    assert len(KEY.hex()) + len("\r\n") == MAX_KEY_FILE_BYTES
