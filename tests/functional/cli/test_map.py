"""``vmsec image map``: pictures, text and ranges of real disks."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import secrets
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest
import yaml
from lxml import etree
from PIL import Image

from tests.support import images
from tests.support.cli import (
    PROGRAM,
    require_one_line,
    run_vmsec,
    vmsec_json,
)
from tests.support.tools import require_root, require_tool

if TYPE_CHECKING:
    import pathlib

CONFIGURATION, IMAGE, SEAL = 10, 20, 30
MIB = 1 << 20
TOOLS = ("mke2fs", "sfdisk", "mkfs.vfat", "mcopy", "mkntfs", "ntfs-3g")


@pytest.fixture(scope="module", params=["gpt-esp-ext4", "mbr-ntfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A disk with partitions; never write to it."""
    require_tool(*TOOLS)
    if request.param == "mbr-ntfs":
        require_root()
    directory = tmp_path_factory.mktemp(request.param)
    return images.IMAGES[request.param](directory / "disk.img")


def require_whole(report: dict[str, object], disk_bytes: int) -> None:
    """Check that ranges and cells cover the disk exactly once."""
    for name in ("ranges", "cells"):
        place = 0
        items = report[name]
        assert isinstance(items, list)
        for item in items:
            assert item["offset"] == place
            place += item["length"]
        assert place == disk_bytes


def text_map(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def test_the_map_agrees_with_what_inspect_says(disk: pathlib.Path) -> None:
    report = vmsec_json("image", "map", disk)
    plan = vmsec_json("image", "inspect", disk)
    require_whole(report, disk.stat().st_size)
    assert report["sealed_bytes"] == plan["sealed_bytes"]
    assert report["partitions"] == plan["partitions"]
    for name, count in plan["classes"].items():
        assert report["classes"][name]["bytes"] == count["bytes"]
    sizes = [count["bytes"] for count in report["classes"].values()]
    assert sum(sizes) == disk.stat().st_size
    assert report["ranges_omitted"] == 0


def test_every_range_that_is_zero_is_zero(disk: pathlib.Path) -> None:
    report = vmsec_json("image", "map", disk)
    content = disk.read_bytes()
    zero = [r for r in report["ranges"] if r["kind"] == "zero"]
    assert zero
    for item in zero:
        place = slice(item["offset"], item["offset"] + item["length"])
        assert not any(content[place])


def test_a_scan_finds_the_zeros_that_are_stored(
    disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    full = tmp_path / "full.img"
    full.write_bytes(disk.read_bytes())
    held = vmsec_json("image", "map", full)["classes"]["readable"]["bytes"]
    report = vmsec_json("image", "map", full, "--scan")
    require_whole(report, full.stat().st_size)
    assert report["classes"]["readable"]["bytes"] < held // 4
    assert report["classes"]["readable"]["bytes"] >= len(images.BODY) * 60


def test_a_png_is_a_picture(
    disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "map.png"
    report = vmsec_json("image", "map", disk, "-o", target)
    assert report["picture"] == str(target)
    with Image.open(target) as picture:
        picture.load()
        assert picture.width == 1200
        assert picture.height > 600
        assert picture.info["Title"] == "Map of disk.img"
        assert "would be sealed" in picture.info["Description"]


def test_an_svg_is_a_picture(
    disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "map.SVG"
    report = vmsec_json("image", "map", disk, "-o", target)
    root = etree.fromstring(target.read_bytes())
    words = {str(element.text) for element in root.iter("{*}text")}
    assert set(report["classes"]) <= words
    assert "disk.img" in words
    tips = [str(element.text) for element in root.iter("{*}title")]
    shown = [c for c in report["cells"] if c["sealed"]]
    assert len([tip for tip in tips if "sealed" in tip]) == len(shown)


def test_a_pipe_gets_letters_and_no_colours(disk: pathlib.Path) -> None:
    text = text_map(run_vmsec("image", "map", disk))
    assert "\x1b" not in text
    assert text.startswith("disk.img\n")
    rows = [line for line in text.splitlines() if line[8:9] == " "]
    grid = "".join(line[9:] for line in rows if len(line) == 73)
    assert grid.startswith("L")
    assert grid.count(".") > 200


def test_a_terminal_gets_colours_and_its_whole_width(
    disk: pathlib.Path,
) -> None:
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 50, 150, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    names = ("COLUMNS", "LINES", "NO_COLOR")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    command = [*PROGRAM, "image", "map", str(disk)]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        env={**clean, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other side was closed
                break
        assert process.wait(60) == 0
    os.close(ours)
    assert b"\x1b[" in seen
    # 128 columns fit; 24 rows then make 2,048 cells of a power of two.
    row = disk.stat().st_size // 2048 * 128 // MIB
    assert f"one row {row} MiB".encode() in seen


@pytest.mark.parametrize("shape", ["csv", "value", "yaml"])
def test_every_format_is_there(disk: pathlib.Path, shape: str) -> None:
    done = run_vmsec("image", "map", disk, "-f", shape)
    assert done.returncode == 0, done.stderr.decode()
    if shape == "yaml":
        report = vmsec_json("image", "map", disk)
        assert yaml.safe_load(done.stdout) == report


def test_level_boot_leaves_more_readable(disk: pathlib.Path) -> None:
    full = vmsec_json("image", "map", disk)
    boot = vmsec_json("image", "map", disk, "--level", "boot")
    assert 0 < boot["sealed_bytes"] < full["sealed_bytes"]
    require_whole(boot, disk.stat().st_size)
    more = boot["classes"]["readable"]["bytes"]
    assert more > full["classes"]["readable"]["bytes"]


def test_a_sealed_disk_shows_nothing_without_its_key(
    disk: pathlib.Path, key: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "sealed.img"
    subprocess.run(["cp", "--sparse=always", disk, path], check=True)
    plain = vmsec_json("image", "map", path)
    sealed = vmsec_json("image", "seal", path, "--key-file", key)
    before = path.read_bytes()
    closed = vmsec_json("image", "map", path)
    require_whole(closed, path.stat().st_size)
    assert closed["state"] == "sealed"
    assert closed["vm"] == sealed["vm"]
    assert closed["sealed_bytes"] is None
    assert set(closed["classes"]) <= {"lba0", "manifest", "unknown", "zero"}
    assert closed["partitions"] == []
    assert "key" in closed["notes"][0]
    opened = vmsec_json("image", "map", path, "--key-file", key)
    require_whole(opened, path.stat().st_size)
    assert opened["sealed_bytes"] == sealed["sealed_bytes"]
    classes = opened["classes"]
    assert "manifest" in classes
    for name, count in plain["classes"].items():
        if name not in ("readable", "zero"):
            assert classes[name]["bytes"] == count["bytes"], name
    assert path.read_bytes() == before


def test_another_key_opens_no_map(
    image: pathlib.Path, key: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    vmsec_json("image", "seal", image, "--key-file", key)
    target = tmp_path / "map.svg"
    done = run_vmsec(
        *("image", "map", image, "-o", target, "--key-file", "-"),
        stdin=secrets.token_bytes(32),
    )
    assert "wrong key" in require_one_line(done, SEAL)
    assert not target.exists()


def test_a_disk_in_use_is_drawn_and_its_owner_not_disturbed(
    image: pathlib.Path,
) -> None:
    """The lock of a running VM is neither needed nor taken."""
    require_tool("qemu-io")
    command = ["qemu-io", "-f", "raw", str(image)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    ) as qemu:
        assert qemu.stdin
        assert qemu.stdout
        qemu.stdin.write(b"read 0 512\n")
        qemu.stdin.flush()
        assert qemu.stdout.readline()
        text_map(run_vmsec("image", "map", image))
        qemu.stdin.write(b"write 0 512\nquit\n")
        qemu.stdin.close()
        assert b"wrote 512" in qemu.stdout.read()
        assert qemu.wait(30) == 0


def test_an_image_that_may_only_be_read_is_drawn(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    image.chmod(0o400)
    before = (image.read_bytes(), image.stat().st_mtime_ns)
    names = sorted(tmp_path.iterdir())
    vmsec_json("image", "map", image)
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before
    assert sorted(tmp_path.iterdir()) == names


def test_a_tebibyte_that_is_a_hole_is_quick_and_small(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "huge.img"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
        stream.seek(1 << 39)
        stream.write(b"in the middle")
    report = vmsec_json("image", "map", path)
    require_whole(report, 1 << 40)
    assert len(report["cells"]) <= 2048
    (cell,) = [c for c in report["cells"] if c["readable"]]
    assert cell["offset"] == 1 << 39


@pytest.mark.parametrize("name", ["map.jpg", "map", "map.png.img"])
def test_a_picture_of_another_kind_is_refused(
    image: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    done = run_vmsec("image", "map", image, "-o", tmp_path / name)
    assert ".png or .svg" in require_one_line(done, CONFIGURATION)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link"])
def test_the_image_is_never_overwritten_by_its_picture(
    image: pathlib.Path, tmp_path: pathlib.Path, how: str
) -> None:
    path = tmp_path / "map.png"
    if how == "itself":
        image = image.rename(path)
    elif how == "hard link":
        path.hardlink_to(image)
    else:
        path.symlink_to(image)
    before = image.read_bytes()
    done = run_vmsec("image", "map", image, "-o", path)
    assert "image itself" in require_one_line(done, CONFIGURATION)
    assert image.read_bytes() == before


def test_a_picture_that_cannot_be_written_is_an_error(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "missing" / "map.png"
    done = run_vmsec("image", "map", image, "-o", target)
    assert "map.png" in require_one_line(done, IMAGE)


def test_a_hostile_name_reaches_neither_terminal_nor_picture(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = image.rename(tmp_path / "a\x1b]0;owned\x07<b>&.img")
    text = text_map(run_vmsec("image", "map", path))
    assert "\x1b" not in text
    assert "\x07" not in text
    target = tmp_path / "map.svg"
    vmsec_json("image", "map", path, "-o", target)
    assert b"\x1b" not in target.read_bytes()
    etree.fromstring(target.read_bytes())


@pytest.mark.parametrize("shape", ["garbage", "damaged mark", "lost mark"])
def test_what_cannot_be_read_with_certainty_is_refused(
    image: pathlib.Path, key: pathlib.Path, shape: str
) -> None:
    if shape == "garbage":
        with image.open("r+b") as stream:
            stream.seek(1024 + 24)  # s_log_block_size
            stream.write(b"\xff" * 8)
        status = IMAGE
    else:
        disk = images.esp_and_ext4_on_gpt(image.with_name("parts.img"))
        vmsec_json("image", "seal", disk, "--key-file", key)
        image, status = disk, SEAL
        with image.open("r+b") as stream:
            stream.seek(256 if shape == "damaged mark" else 0)
            stream.write(bytes(8 if shape == "damaged mark" else 512))
    done = run_vmsec("image", "map", image)
    require_one_line(done, status)


def test_a_half_sealed_image_is_refused_until_it_is_recovered(
    image: pathlib.Path,
) -> None:
    journal = image.with_name(image.name + ".vmsec-journal")
    journal.write_bytes(b"anything")
    done = run_vmsec("image", "map", image)
    assert "vmsec image recover" in require_one_line(done, SEAL)
    assert journal.read_bytes() == b"anything"


def test_one_column_is_what_scripts_get(disk: pathlib.Path) -> None:
    words = ("image", "map", disk, "-f", "json", "-c", "classes")
    done = run_vmsec(*words)
    assert json.loads(done.stdout).keys() == {"classes"}
