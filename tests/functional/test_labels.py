"""Labels that real tools write: both readers must find the same.

The oracle for the partitions is ``sfdisk --json``; libparted is the second
reader that the product itself asks.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.ext import FileSource
from tests.support.label import MIB, Table
from tests.support.tools import require_root, require_tool
from vmsec.errors import (
    CorruptImageError,
    ImageIOError,
    ReaderDisagreementError,
)
from vmsec.ondisk.layout import DiskLayout, read_layout
from vmsec.sealing.labelcheck import require_same_label

if TYPE_CHECKING:
    from collections.abc import Iterator

GPT = "label: gpt\n,20M,U\n,1M,21686148-6449-6E6F-744E-656564454649\n,30M\n"
LOGICALS = "label: dos\n,8M,c,*\n,150M,5\n,8M,7\n" + 10 * ",5M\n"
SCRIPTS = {
    "gpt": GPT,
    "gpt-out-of-order": "label: gpt\nstart=9M,size=4M\nstart=2M,size=3M\n",
    "gpt-empty": "label: gpt\n",
    "gpt-four-entries": "label: gpt\ntable-length: 4\n,20M\n,30M\n",
    "gpt-full": "label: gpt\n" + 128 * ",1M\n",
    "msdos": "label: dos\n,20M,7\n,,83\n",
    "msdos-ten-logicals": LOGICALS,
    "msdos-lba-extended": LOGICALS.replace(",5\n", ",f\n"),
    "msdos-linux-extended": LOGICALS.replace(",5\n", ",85\n"),
    "msdos-empty-extended": "label: dos\n,20M\n,30M,5\n",
}


def run(*command: str | pathlib.Path, text: str = "") -> str:
    done = subprocess.run(
        list(map(str, command)), input=text, text=True, check=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def make(path: pathlib.Path, script: str, size: int = 200 * MIB) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", path, text=script)


def oracle(path: pathlib.Path) -> list[tuple[int, int, int]]:
    """Number, offset and length as sfdisk sees them."""
    table = json.loads(run("sfdisk", "--json", path))["partitiontable"]
    sector = table.get("sectorsize", 512)
    return sorted(
        (
            int(p["node"].removeprefix(str(path)).lstrip("p")),
            p["start"] * sector,
            p["size"] * sector,
        )
        for p in table.get("partitions", [])
    )


def read(path: pathlib.Path) -> DiskLayout:
    return read_layout(FileSource(path))


def found(layout: DiskLayout) -> list[tuple[int, int, int]]:
    return sorted((p.number, p.offset, p.length) for p in layout.partitions)


@contextmanager
def loop_device(path: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    require_root()
    require_tool("losetup")
    device = run("losetup", *options, "--find", "--show", path).strip()
    try:
        yield pathlib.Path(device)
    finally:
        run("losetup", "--detach", device)


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    require_tool("sfdisk", "sgdisk", "parted")
    return tmp_path / "disk.img"


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_sfdisk_wrote_is_read_by_both_readers(
    image: pathlib.Path, name: str
) -> None:
    make(image, SCRIPTS[name])
    layout = read(image)
    assert found(layout) == oracle(image)
    require_same_label(str(image), layout)


@pytest.mark.parametrize("label", ["gpt", "msdos"])
def test_what_parted_wrote_is_read_by_both_readers(
    image: pathlib.Path, label: str
) -> None:
    make(image, "label: dos\n")
    run("parted", "-s", image, "mklabel", label, "mkpart", "primary",
        "1MiB", "20MiB")  # fmt: skip
    if label == "msdos":
        run("parted", "-s", image, "mkpart", "extended", "20MiB", "90MiB")
        run("parted", "-s", image, "mkpart", "logical", "21MiB", "40MiB")
        run("parted", "-s", image, "mkpart", "logical", "41MiB", "60MiB")
        run("parted", "-s", image, "rm", "5")
    layout = read(image)
    assert found(layout) == oracle(image)
    require_same_label(str(image), layout)


def test_a_hybrid_mbr_is_read_by_both_readers(image: pathlib.Path) -> None:
    make(image, GPT)
    run("sgdisk", "--hybrid=1:3", image)
    layout = read(image)
    assert "hybrid MBR" in layout.notes
    assert len(layout.partitions) == 3
    require_same_label(str(image), layout)


def test_a_grown_gpt_disk_is_read_and_not_repaired(
    image: pathlib.Path,
) -> None:
    make(image, GPT)
    before = oracle(image)
    with image.open("r+b") as file:
        file.truncate(300 * MIB)
    digest = hashlib.sha256(image.read_bytes()).digest()
    layout = read(image)
    require_same_label(str(image), layout)
    assert found(layout) == before
    assert any("the disk was grown" in note for note in layout.notes)
    assert hashlib.sha256(image.read_bytes()).digest() == digest


def test_sgdisk_moves_the_backup_to_the_new_end(image: pathlib.Path) -> None:
    make(image, GPT)
    with image.open("r+b") as file:
        file.truncate(300 * MIB)
    run("sgdisk", "--move-second-header", image)
    layout = read(image)
    assert layout.notes == ()
    assert max(e.end for e in layout.extents) == 300 * MIB


def test_a_truncated_gpt_disk_is_refused(image: pathlib.Path) -> None:
    make(image, GPT)
    with image.open("r+b") as file:
        file.truncate(199 * MIB)
    with pytest.raises(CorruptImageError, match="cut short"):
        read(image)


@pytest.mark.parametrize("at", [512, 200 * MIB - 512], ids=["first", "last"])
def test_one_damaged_copy_is_refused_until_sgdisk_repairs_it(
    image: pathlib.Path, at: int
) -> None:
    make(image, GPT)
    with image.open("r+b") as file:
        file.seek(at + 60)
        file.write(b"\xa5")
    with pytest.raises(CorruptImageError, match="sgdisk"):
        read(image)
    run("sgdisk", "--move-second-header", image)
    require_same_label(str(image), read(image))


def test_a_backup_that_was_never_written_is_tolerated_by_both(
    image: pathlib.Path,
) -> None:
    make(image, GPT)
    with image.open("r+b") as file:
        file.truncate(200 * MIB - 33 * 512)
        file.truncate(200 * MIB)
    require_same_label(str(image), read(image))


def test_a_4kn_gpt_in_a_file_is_refused_with_the_way_out(
    image: pathlib.Path,
) -> None:
    table = Table(sectors=8192, sector_bytes=4096)
    image.write_bytes(table.build())
    layout = read(image)
    assert layout.sector_bytes == 4096
    with pytest.raises(
        ReaderDisagreementError, match=r"losetup --sector-size 4096"
    ):
        require_same_label(str(image), layout)
    with loop_device(image, "--sector-size", "4096") as device:
        require_same_label(str(device), layout)


@pytest.mark.parametrize("script", ["gpt", "msdos-ten-logicals"])
def test_4kn_devices_are_read_by_both_readers(
    image: pathlib.Path, script: str
) -> None:
    with image.open("wb") as file:
        file.truncate(200 * MIB)
    with loop_device(image, "--sector-size", "4096") as device:
        subprocess.run(
            ["sfdisk", "--quiet", "--no-reread", device],
            input=SCRIPTS[script], text=True, check=False,
            capture_output=True, timeout=60,
        )  # fmt: skip
        source = FileSource(device)
        source.size_bytes, source.sector_bytes = 200 * MIB, 4096
        layout = read_layout(source)
        assert found(layout) == oracle(device)
        assert len(layout.partitions) > 2
        require_same_label(str(device), layout)


def test_a_read_only_device_is_read_without_a_question(
    image: pathlib.Path,
) -> None:
    make(image, GPT)
    with loop_device(image, "--read-only") as device:
        require_same_label(str(device), read(image))


CHANGES = {
    "another length": ("label: dos\n,20M,7\n", "label: dos\n,21M,7\n"),
    "one partition more": ("label: dos\n,9M\n", "label: dos\n,9M\n,9M\n"),
    "another label": ("label: dos\n,9M\n", "label: gpt\n,9M\n"),
    "a label of neither": ("label: dos\n,9M\n", "label: sun\n,9M\n"),
    "another logical": (LOGICALS, LOGICALS.replace(",5M\n", ",4M\n")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_readers_that_differ_are_refused_with_both_readings(
    image: pathlib.Path, name: str
) -> None:
    first, second = CHANGES[name]
    make(image, first)
    layout = read(image)
    image.unlink()
    make(image, second)
    with pytest.raises(ReaderDisagreementError) as caught:
        require_same_label(str(image), layout)
    text = str(caught.value)
    assert "vmsec: msdos" in text
    assert "libparted: " in text
    assert "\n" not in text


def test_a_label_on_which_libparted_aborts_is_refused(
    image: pathlib.Path,
) -> None:
    """Libparted 3.5 asserts that memory is not of zero bytes."""
    make(image, GPT)
    layout = read(image)
    image.write_bytes(Table(entry_count=0, partitions=[]).build())
    with pytest.raises(ReaderDisagreementError, match="cannot read"):
        require_same_label(str(image), layout)


def test_a_missing_disk_is_an_io_error(image: pathlib.Path) -> None:
    make(image, GPT)
    layout = read(image)
    image.unlink()
    with pytest.raises(ImageIOError, match=r"(?i)no such file"):
        require_same_label(str(image), layout)


def test_the_second_reader_is_silent_and_takes_any_name(
    image: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = image.with_name("-o 'x' \u00e9.img")
    make(odd, GPT)
    require_same_label(str(odd), read(odd))
    assert capfd.readouterr() == ("", "")
