"""``vmsec image diff``: classes of metadata, marks, and exit statuses."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import images
from tests.support.cli import require_one_line, run_vmsec, vmsec_json
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    import pathlib

SAME, DIFFERENT, USAGE, IMAGE, SEAL = 0, 1, 2, 20, 30
MIB = 1 << 20


@pytest.fixture
def other(image: pathlib.Path) -> pathlib.Path:
    """A copy of the image."""
    return copy(image, image.with_name("other.img"))


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    return target


def diff(*words: object, status: int = DIFFERENT) -> dict[str, Any]:
    """Compare two images; return what differs by class."""
    done = run_vmsec("image", "diff", *map(str, words), "-f", "json")
    assert done.returncode == status, done.stderr.decode()
    assert done.stderr == b""
    return {row.pop("class"): row for row in json.loads(done.stdout)}


def debugfs(image: pathlib.Path, command: str) -> None:
    require_tool("debugfs")
    subprocess.run(
        ["debugfs", "-w", "-R", command, image], check=True, timeout=60
    )


def patch(image: pathlib.Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def test_a_disk_and_its_copy_are_the_same(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    assert diff(image, other, status=SAME) == {}
    assert diff(image, other, "--contents", status=SAME) == {}
    assert diff(image, image, status=SAME) == {}


def test_a_hole_and_stored_zeros_are_the_same(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    full = tmp_path / "full.img"
    full.write_bytes(image.read_bytes())
    assert diff(image, full, "--contents", status=SAME) == {}


def test_a_new_directory_shows_in_the_classes_that_it_touches(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    debugfs(other, "mkdir lynx")
    found = diff(image, other)
    assert {"directory", "inode-table", "inode-bitmap"} <= found.keys()
    assert "lba0" not in found
    block = found["directory"]
    assert block["b"] - block["a"] == 1024
    assert block["extents"] == len(block["first_offsets"]) == 2
    assert diff(other, image)["directory"]["bytes"] == block["bytes"]


def test_one_letter_of_a_name_is_found_where_it_is(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    place = image.read_bytes().find(b"payroll-2031.txt")
    patch(other, place, b"P")
    found = diff(image, other)
    assert found.keys() == {"directory"}
    row = found["directory"]
    assert (row["extents"], row["bytes"]) == (1, 1)
    assert row["first_offsets"] == [place]


def test_boot_code_is_found_and_counted_byte_by_byte(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    patch(other, 100, b"\xeb\xfe\x90")
    row = diff(image, other)["lba0"]
    assert (row["extents"], row["bytes"]) == (1, 3)
    assert row["first_offsets"] == [100]


def test_contents_count_only_when_asked_for(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    place = image.read_bytes().find(b"payroll\npayroll")
    patch(other, place, b"Payroll")
    assert diff(image, other, status=SAME) == {}
    row = diff(image, other, "--contents")["readable"]
    assert (row["bytes"], row["first_offsets"]) == (1, [place])


def test_a_disk_that_has_grown_is_said_to_have(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    with other.open("r+b") as stream:
        stream.truncate(33 * MIB)
    found = diff(image, other)
    assert found.keys() == {"disk-size"}
    row = found["disk-size"]
    assert (row["a"], row["b"], row["bytes"]) == (32 * MIB, 33 * MIB, MIB)
    assert diff(image, other, "--contents").keys() == {"disk-size", "readable"}


def test_two_sealed_disks_are_told_apart_by_their_marks(
    image: pathlib.Path, other: pathlib.Path, key: pathlib.Path
) -> None:
    seals = [
        vmsec_json("image", "seal", path, "--key-file", key)
        for path in (image, other)
    ]
    found = diff(image, other)
    for name in ("vm", "disk"):
        row = found[f"mark-{name}"]
        assert [row["a"], row["b"]] == [seal[name] for seal in seals]
    assert "mark-generation" not in found
    assert all(name.startswith("mark-") for name in found)
    done = run_vmsec("image", "diff", image, other)
    assert done.returncode == DIFFERENT
    assert b"their marks were compared" in done.stderr
    assert diff(image, image, status=SAME) == {}


def test_a_sealed_disk_and_a_plain_one_differ_in_state(
    image: pathlib.Path, other: pathlib.Path, key: pathlib.Path
) -> None:
    vmsec_json("image", "seal", other, "--key-file", key)
    row = diff(image, other)["state"]
    assert (row["a"], row["b"]) == ("plain", "sealed")


def test_a_seal_and_an_unseal_leave_no_difference(
    image: pathlib.Path, other: pathlib.Path, key: pathlib.Path
) -> None:
    vmsec_json("image", "seal", other, "--key-file", key)
    vmsec_json("image", "unseal", other, "--key-file", key)
    assert diff(image, other, "--contents", status=SAME) == {}


def test_formats_may_differ_where_the_disks_do_not(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    require_tool("qemu-img", "qemu-storage-daemon")
    require_root()
    disk = tmp_path / "disk.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, image, disk], check=True, timeout=60)
    words = ("--format-b", "qcow2", "--contents")
    assert diff(image, disk, *words, status=SAME) == {}
    both = ("--format", "qcow2")
    assert diff(disk, disk, *both, status=SAME) == {}
    done = run_vmsec("image", "diff", image, disk)
    assert "--format qcow2" in require_one_line(done, IMAGE)


def test_partitions_of_any_kind_are_compared(tmp_path: pathlib.Path) -> None:
    require_tool("mke2fs", "sfdisk", "mkfs.vfat", "mcopy")
    disk = images.esp_and_ext4_on_gpt(tmp_path / "disk.img")
    changed = copy(disk, tmp_path / "changed.img")
    subprocess.run(
        ["mmd", "-i", f"{changed}@@1M", "::/vixen"], check=True, timeout=60
    )
    found = diff(disk, changed)
    assert {"directory", "fat-table"} <= found.keys()
    assert "inode-table" not in found


@pytest.mark.parametrize("shape", ["csv", "table", "value", "yaml"])
def test_every_format_is_there(
    image: pathlib.Path, other: pathlib.Path, shape: str
) -> None:
    patch(other, 100, b"\xeb\xfe\x90")
    done = run_vmsec("image", "diff", image, other, "-f", shape)
    assert done.returncode == DIFFERENT, done.stderr.decode()
    assert b"lba0" in done.stdout


@pytest.mark.parametrize("which", ["first", "second"])
def test_the_image_that_cannot_be_read_is_named(
    image: pathlib.Path, other: pathlib.Path, which: str
) -> None:
    bad = image if which == "first" else other
    patch(bad, 1024 + 24, b"\xff" * 8)  # s_log_block_size
    done = run_vmsec("image", "diff", image, other)
    assert str(bad) in require_one_line(done, IMAGE)


def test_a_damaged_mark_is_an_error_never_a_difference(
    image: pathlib.Path, other: pathlib.Path, key: pathlib.Path
) -> None:
    for path in (image, other):
        vmsec_json("image", "seal", path, "--key-file", key)
    patch(other, 256, bytes(8))
    done = run_vmsec("image", "diff", image, other)
    assert "damaged" in require_one_line(done, SEAL)


def test_what_is_missing_has_the_status_of_images_not_of_a_difference(
    image: pathlib.Path,
) -> None:
    done = run_vmsec("image", "diff", image, "/nonexistent/disk.img")
    assert "/nonexistent/disk.img" in require_one_line(done, IMAGE)
    assert run_vmsec("image", "diff", image).returncode == USAGE


def test_a_half_sealed_image_is_refused(
    image: pathlib.Path, other: pathlib.Path
) -> None:
    journal = other.with_name(other.name + ".vmsec-journal")
    journal.write_bytes(b"anything")
    done = run_vmsec("image", "diff", image, other)
    assert "vmsec image recover" in require_one_line(done, SEAL)


def test_nothing_is_changed(image: pathlib.Path, other: pathlib.Path) -> None:
    patch(other, 100, b"\xeb\xfe\x90")
    before = [path.read_bytes() for path in (image, other)]
    names = sorted(image.parent.iterdir())
    diff(image, other, "--contents")
    assert [path.read_bytes() for path in (image, other)] == before
    assert sorted(image.parent.iterdir()) == names
