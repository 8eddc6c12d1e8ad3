"""Whole disks with real file systems, partitioned and not.

A volume's map must not depend on where the volume lies; what is not mapped
must be named; and the label's structures come on top.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import ext, ntfs_volume
from tests.support.ext import FileSource
from tests.support.label import MIB
from tests.support.tools import require_tool
from vmsec.errors import CorruptImageError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.layout import (
    DiskLayout,
    fallback_ranges,
    read_layout,
    volume_extents,
)
from vmsec.sealing.labelcheck import require_same_label

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

VOLUME = 32 * MIB
NAME = b"vmsecname"


def run(*command: str | pathlib.Path, text: str = "") -> None:
    subprocess.run(
        list(map(str, command)), input=text, text=True, check=True,
        capture_output=True, timeout=60,
    )  # fmt: skip


def make_fat(path: pathlib.Path) -> None:
    require_tool("mkfs.vfat", "mmd")
    path.write_bytes(bytes(VOLUME))
    run("mkfs.vfat", path)
    run("mmd", "-i", path, "::vmsecname of fat", "::vmsecname of fat/SUB")


def make_ext(path: pathlib.Path) -> None:
    require_tool("mke2fs")
    tree = path.parent / f"tree-of-{path.name}"
    for number in range(200):
        (tree / f"vmsecname-{number}").mkdir(parents=True)
    ext.make_image(path, "-t", "ext4", tree=tree, mib=VOLUME // MIB)


def make_ntfs(path: pathlib.Path) -> None:
    require_tool("mkntfs")
    ntfs_volume.make_ntfs(path, size_mib=VOLUME // MIB)


def make_swap(path: pathlib.Path) -> None:
    require_tool("mkswap")
    path.write_bytes(bytes(VOLUME))
    run("mkswap", path)


def make_exfat(path: pathlib.Path) -> None:
    require_tool("mkfs.exfat")
    path.write_bytes(bytes(VOLUME))
    run("mkfs.exfat", "-L", "vmsecname", path)


def make_btrfs(path: pathlib.Path) -> None:
    require_tool("mkfs.btrfs")
    path.write_bytes(bytes(VOLUME))
    run("mkfs.btrfs", "-q", "-M", "-L", "vmsecname", path)


def make_luks(path: pathlib.Path) -> None:
    require_tool("cryptsetup")
    path.write_bytes(bytes(VOLUME))
    run("cryptsetup", "-q", "luksFormat", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", path, "-", text="key")  # fmt: skip


def make_noise(path: pathlib.Path) -> None:
    path.write_bytes(os.urandom(VOLUME))


CONTENTS: dict[str, tuple[Callable[[pathlib.Path], None], str, str]] = {
    "fat": (make_fat, "filesystem", "vfat"),
    "ext": (make_ext, "filesystem", "ext4"),
    "ntfs": (make_ntfs, "filesystem", "ntfs"),
    "swap": (make_swap, "filesystem", "swap"),
    "exfat": (make_exfat, "filesystem", "exfat"),
    "btrfs": (make_btrfs, "filesystem", "btrfs"),
    "luks": (make_luks, "encrypted", "LUKS: encrypted, left alone"),
    "noise": (make_noise, "unknown", "no known file system"),
}
LABELS = {
    "gpt": "label: gpt\n" + len(CONTENTS) * ",32M\n",
    "dos": "label: dos\n,32M\n,32M\n,,5\n" + (len(CONTENTS) - 2) * ",32M\n",
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("volumes")
    found = {}
    for name, (make, _, _) in CONTENTS.items():
        path = directory / name
        make(path)
        found[name] = path.read_bytes()
    return found


@pytest.fixture(params=LABELS)
def disk(
    request: pytest.FixtureRequest,
    volumes: dict[str, bytes],
    tmp_path: pathlib.Path,
) -> pathlib.Path:
    """A disk with one partition of each content."""
    require_tool("sfdisk")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(352 * MIB)
    run("sfdisk", "--quiet", path, text=LABELS[request.param])
    slots = [
        p for p in read_layout(FileSource(path)).partitions
        if p.status != "container"
    ]  # fmt: skip
    with path.open("r+b") as file:
        for slot, content in zip(slots, volumes.values(), strict=True):
            file.seek(slot.offset)
            file.write(content)
    return path


def contents(layout: DiskLayout) -> list[tuple[str, str]]:
    return [
        (p.status, p.content.filesystem if p.content else p.note)
        for p in layout.partitions
        if p.status != "container"
    ]


def test_each_partition_is_recognised(disk: pathlib.Path) -> None:
    layout = read_layout(FileSource(disk))
    assert contents(layout) == [
        (status, note) for _, status, note in CONTENTS.values()
    ]
    require_same_label(str(disk), layout)


def test_a_map_does_not_depend_on_where_the_volume_lies(
    disk: pathlib.Path, volumes: dict[str, bytes], tmp_path: pathlib.Path
) -> None:
    inside = [
        p.content
        for p in read_layout(FileSource(disk)).partitions
        if p.content is not None
    ]
    names = ("fat", "ext", "ntfs", "swap", "exfat", "btrfs")
    for name, content in zip(names, inside, strict=True):
        alone = tmp_path / name
        alone.write_bytes(volumes[name])
        (whole,) = read_layout(FileSource(alone)).partitions
        assert (whole.number, whole.content) == (0, content)


def test_the_map_of_a_disk_is_sorted_disjoint_and_hides_every_name(
    disk: pathlib.Path,
) -> None:
    layout = read_layout(FileSource(disk))
    extents = volume_extents(layout)
    end = 0
    for extent in extents:
        assert end <= extent.offset < extent.end
        end = extent.end
    data = bytearray(disk.read_bytes())
    # A long name of FAT is cut after five characters.
    wide = NAME[:5].decode().encode("utf-16-le")
    assert NAME in data
    assert wide in data
    for extent in extents:
        data[extent.offset : extent.end] = bytes(extent.length)
    assert NAME not in data
    assert wide not in data


def test_encrypted_and_unknown_partitions_are_outside_the_map(
    disk: pathlib.Path,
) -> None:
    layout = read_layout(FileSource(disk))
    extents = volume_extents(layout)
    unmapped = [
        p for p in layout.partitions
        if p.status in {"encrypted", "unknown"}
    ]  # fmt: skip
    assert len(unmapped) == 2
    assert len(fallback_ranges(layout)) == 1
    for partition in unmapped:
        assert not any(
            e.offset < partition.end and partition.offset < e.end
            for e in extents
        )


@pytest.mark.parametrize("name", CONTENTS)
def test_a_whole_disk_agrees_with_libparted(
    name: str, volumes: dict[str, bytes], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "whole.img"
    path.write_bytes(volumes[name])
    layout = read_layout(FileSource(path))
    assert contents(layout) == [CONTENTS[name][1:]]
    touched = any(e.kind is MetadataClass.LBA0 for e in layout.extents)
    assert touched == (name != "luks")
    require_same_label(str(path), layout)


def test_a_damaged_file_system_names_its_partition(
    volumes: dict[str, bytes], tmp_path: pathlib.Path
) -> None:
    require_tool("sfdisk")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    run("sfdisk", "--quiet", path, text="label: gpt\n,9M\n,32M\n")
    with path.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(volumes["ext"])
        # The count of blocks in the superblock.
        file.seek(10 * MIB + 1024 + 4)
        file.write(b"\xff\xff\xff\x0f")
    with pytest.raises(CorruptImageError, match=r"^partition 2 at byte"):
        read_layout(FileSource(path))
