"""The map of FAT12/16/32 on volumes of dosfstools, filled by mtools.

Oracles that share no code with the parser: ``mshowfat`` says which clusters
each directory and file has; and an attacker looks at a volume whose mapped
extents are zero.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.ext import FileSource
from tests.support.tools import require_tool
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.fat import FATGeometry, is_fat, map_fat, read_geometry

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

VARIANTS = {
    "fat12": (8, "-F", "12"),
    "fat12-one-table": (8, "-F", "12", "-f", "1"),
    "fat16": (40, "-F", "16"),
    "fat16-small-clusters": (20, "-F", "16", "-s", "1"),
    "fat32": (80, "-F", "32"),
    "fat32-4k-sectors": (280, "-F", "32", "-S", "4096"),
    "fat32-64-reserved": (80, "-F", "32", "-R", "64"),
}
ENTRIES = 500
BODY = b"this is the body of a file on FAT. " * 40
LONG = "vmsec long name of file %03d.text"
NESTED = ("OUTER", "OUTER/INNER", "OUTER/INNER/DEEPEST", "EMPTY")


def tool(*command: str | pathlib.Path, check: bool = True) -> str:
    done = subprocess.run(
        list(map(str, command)), text=True, check=check, capture_output=True,
        timeout=120, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
    )  # fmt: skip
    return done.stdout


@dataclass
class Volume:
    """A filled volume and what the parser made of it."""

    path: pathlib.Path
    map: VolumeMap
    geometry: FATGeometry

    def clusters(self, name: str) -> set[int]:
        """The clusters of a file or directory, as mtools sees them."""
        text = tool("mshowfat", "-i", self.path, f"::{name}")
        found: set[int] = set()
        for first, last in re.findall(r"<(\d+)(?:-(\d+))?>", text):
            found |= set(range(int(first), int(last or first) + 1))
        return found

    def is_mapped(self, cluster: int) -> bool:
        start = self.geometry.cluster_offset(cluster)
        end = start + self.geometry.cluster_bytes
        return any(
            e.offset <= start and end <= e.end for e in self.map.extents
        )

    def zeroed(self) -> bytes:
        data = bytearray(self.path.read_bytes())
        for offset, length, _ in self.map.extents:
            data[offset : offset + length] = bytes(length)
        return bytes(data)


def fill(path: pathlib.Path, files: pathlib.Path) -> None:
    """Nested directories of 500 entries, long and short names."""
    files.mkdir()
    for n in range(ENTRIES):
        (files / (LONG % n)).write_bytes(b"%03d" % n + BODY)
    for name in NESTED:
        tool("mmd", "-i", path, f"::{name}")
    names = sorted(files.iterdir())
    tool("mcopy", "-i", path, *names, "::OUTER/INNER")
    tool("mcopy", "-i", path, *names[:20], "::OUTER/INNER/DEEPEST")
    tool("mcopy", "-i", path, *names[:9], "::")
    many = [f"::OUTER/SUB{n:03d}" for n in range(ENTRIES)]
    tool("mmd", "-i", path, *many)
    tool("mdel", "-i", path, f"::{LONG % 3}")
    tool("mrd", "-i", path, *many[100:120])


@pytest.fixture(scope="module", params=VARIANTS)
def volume(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Volume:
    require_tool("mkfs.vfat", "mcopy", "mmd", "mshowfat", "mdel", "mrd")
    directory = tmp_path_factory.mktemp("fat")
    path = directory / "volume.img"
    mib, *options = VARIANTS[request.param]
    with path.open("wb") as file:
        file.truncate(int(mib) << 20)
    tool("mkfs.vfat", "-n", "VMSECLABEL", *map(str, options), path)
    fill(path, directory / "files")
    source = FileSource(path)
    assert is_fat(source)
    return Volume(path, map_fat(source), read_geometry(source))


def test_every_directory_cluster_is_mapped(volume: Volume) -> None:
    names = [*NESTED, "OUTER/SUB000", "OUTER/SUB499"]
    clusters = set().union(*(volume.clusters(name) for name in names))
    assert len(clusters) >= len(names)
    assert all(volume.is_mapped(cluster) for cluster in clusters)


def test_no_cluster_of_a_file_is_mapped(volume: Volume) -> None:
    for n in (0, 250, 499):
        clusters = volume.clusters(f"OUTER/INNER/{LONG % n}")
        assert clusters
        assert not any(volume.is_mapped(cluster) for cluster in clusters)


def test_as_many_directories_are_mapped_as_were_made(volume: Volume) -> None:
    mapped = sum(
        e.length for e in volume.map.extents
        if e.kind is MetadataClass.DIRECTORY
    )  # fmt: skip
    made = len(NESTED) + ENTRIES - 20
    assert mapped >= made * volume.geometry.cluster_bytes
    assert mapped < (made + 200) * volume.geometry.cluster_bytes + 200_000


def test_without_the_mapped_extents_no_name_is_left(volume: Volume) -> None:
    before, after = volume.path.read_bytes(), volume.zeroed()
    for name in (b"VMSECL~", b"SUB499", b"VMSECLABEL", b"DEEPEST", b"FAT"):
        assert name in before
        if name != b"FAT":
            assert name not in after
    wide = "vmsec".encode("utf-16-le")
    assert wide in before
    assert wide not in after


def test_without_the_mapped_extents_every_body_stays(volume: Volume) -> None:
    after = volume.zeroed()
    assert after.count(BODY[:70]) >= ENTRIES
    for n in (0, 77, 499):
        assert b"%03d" % n + BODY[:400] in after


def test_without_the_mapped_extents_tools_find_nothing(
    volume: Volume, tmp_path: pathlib.Path
) -> None:
    require_tool("fls", "fsck.vfat")
    sealed = tmp_path / "sealed.img"
    sealed.write_bytes(volume.zeroed())
    assert "DEEPEST" in tool("fls", "-r", volume.path)
    assert tool("fls", "-r", sealed, check=False) == ""
    assert "DEEPEST" not in tool("mdir", "-/", "-i", sealed, check=False)
    assert not is_fat(FileSource(sealed))


def test_the_original_is_whole_for_fsck(volume: Volume) -> None:
    """The fixture is a sound volume: what it proves is not an accident."""
    require_tool("fsck.vfat")
    tool("fsck.vfat", "-n", volume.path)


def test_a_small_fat32_is_one_for_blkid_too(tmp_path: pathlib.Path) -> None:
    """Of fewer clusters than the specification wants; usual for an ESP."""
    require_tool("mkfs.vfat", "blkid")
    path = tmp_path / "small.img"
    path.write_bytes(bytes(8 << 20))
    tool("mkfs.vfat", "-F", "32", "-b", "0", path)
    version = tool("blkid", "-p", "-o", "value", "-s", "VERSION", path)
    found = map_fat(FileSource(path))
    assert found.notes == ("FAT32",) == (version.strip(),)
    assert found.extents[-1].kind is MetadataClass.DIRECTORY
