"""The format of an image is the operator's word, never the guest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmsec.cli.imageformat import decide_format
from vmsec.errors import ImageIOError, UnsupportedFormatError

if TYPE_CHECKING:
    import pathlib

MAGICS = {
    "qcow2": b"QFI\xfb\x00\x00\x00\x03",
    "vmdk": b"KDMV",
    "vhdx": b"vhdxfile",
    "vpc": b"conectix",
    "qed": b"QED\x00",
    "parallels": b"WithoutFreeSpace",
    "vdi": bytes(0x40) + b"\x7f\x10\xda\xbe",
}


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    return path


def test_an_image_is_raw_unless_told_otherwise(image: pathlib.Path) -> None:
    assert decide_format(image, "auto") == "raw"


@pytest.mark.parametrize("name", MAGICS)
def test_a_forged_header_makes_vmsec_ask(
    image: pathlib.Path, name: str
) -> None:
    image.write_bytes(MAGICS[name].ljust(1024, b"\0"))
    with pytest.raises(UnsupportedFormatError) as caught:
        decide_format(image, "auto")
    assert name in str(caught.value)
    assert "--format raw" in str(caught.value)


@pytest.mark.parametrize("name", MAGICS)
@pytest.mark.parametrize("said", ["raw", "qcow2"])
def test_the_operators_word_beats_the_content(
    image: pathlib.Path, name: str, said: str
) -> None:
    image.write_bytes(MAGICS[name].ljust(1024, b"\0"))
    assert decide_format(image, said) == said


def test_an_empty_image_is_raw(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert decide_format(path, "auto") == "raw"


def test_an_image_that_cannot_be_read_is_an_image_error(
    tmp_path: pathlib.Path,
) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ImageIOError):
            decide_format(path, "auto")
