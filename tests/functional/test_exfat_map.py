"""The map of exFAT on volumes of exfatprogs, filled by hand.

``fsck.exfat`` says that what was filled in is sound. Oracles that share no
code with the parser: The Sleuth Kit says which sectors each directory and
file has; and an attacker looks at a volume whose mapped extents are zero.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.exfat_volume import ExFATVolume, Folder
from tests.support.ext import FileSource
from tests.support.images import Store, digest, seal, unseal
from tests.support.tools import require_root, require_tool
from vmsec.ondisk.exfat import is_exfat, map_exfat
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

CLUSTERS = ("512", "4K", "32K", "128K")
ENTRIES = 300
BODY = b"this is the body of a file on exFAT. " * 40
LABEL = "VMSECLABEL"
TOOLS = ("mkfs.exfat", "fsck.exfat", "fls", "istat")


def tool(*command: object, check: bool = True) -> str:
    done = subprocess.run(
        list(map(str, command)), text=True, check=check, capture_output=True,
        timeout=120,
    )  # fmt: skip
    return done.stdout


def fill(volume: ExFATVolume) -> None:
    """Nested directories, chained and contiguous, of many entries."""
    room = -(-ENTRIES * 128 // volume.cluster_bytes)
    outer = volume.mkdir("vmsecname outer")
    inner = volume.mkdir("vmsecname inner", outer, count=room)
    flat = volume.mkdir(
        "vmsecname flat", outer, count=room, contiguous=True
    )  # fmt: skip
    deep: Folder = inner
    for level in range(20):
        deep = volume.mkdir(f"vmsecname deep {level}", deep)
    for n in range(ENTRIES):
        folder = flat if n % 2 else inner
        volume.write(f"vmsecname of file {n:03d}", b"%03d" % n + BODY, folder)


@dataclass
class Volume:
    """A filled volume and what the parser made of it."""

    path: pathlib.Path
    map: VolumeMap

    def zeroed(self) -> bytes:
        data = bytearray(self.path.read_bytes())
        for offset, length, _ in self.map.extents:
            data[offset : offset + length] = bytes(length)
        return bytes(data)

    def sectors(self, entry: str) -> set[int]:
        """The sectors of a file or directory, as The Sleuth Kit sees them."""
        text = tool("istat", "-f", "exfat", self.path, entry)
        listed = text.partition("Sectors:")[2]
        # It fills the last line with zeros.
        return {int(n) for n in re.findall(r"\d+", listed)} - {0}

    def is_mapped(self, sector: int) -> bool:
        at = sector * 512
        return any(e.offset <= at < e.end for e in self.map.extents)

    def entries(self, kind: str) -> list[str]:
        """Inode numbers of all files (``r/r``) or directories (``d/d``)."""
        text = tool("fls", "-f", "exfat", "-r", self.path)
        pattern = rf"{kind} (\d+):\tvmsecname"
        return re.findall(pattern, text)


@pytest.fixture(scope="module", params=CLUSTERS)
def volume(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Volume:
    require_tool(*TOOLS)
    path = tmp_path_factory.mktemp("exfat") / "volume.img"
    with path.open("wb") as file:
        file.truncate(96 << 20)
    tool("mkfs.exfat", "-c", request.param, "-L", LABEL, path)
    content = ExFATVolume(bytearray(path.read_bytes()))
    fill(content)
    path.write_bytes(content.build())
    tool("fsck.exfat", "-n", path)
    source = FileSource(path)
    assert is_exfat(source)
    return Volume(path, map_exfat(source))


def test_every_sector_of_a_directory_is_mapped(volume: Volume) -> None:
    directories = volume.entries("d/d")
    assert len(directories) == 23
    for entry in directories:
        sectors = volume.sectors(entry)
        assert sectors
        assert all(volume.is_mapped(sector) for sector in sectors)


def test_no_sector_of_a_file_is_mapped(volume: Volume) -> None:
    files = volume.entries("r/r")
    assert len(files) == ENTRIES
    for entry in files[::50]:
        sectors = volume.sectors(entry)
        assert sectors
        assert not any(volume.is_mapped(sector) for sector in sectors)


def test_without_the_mapped_extents_no_name_is_left(volume: Volume) -> None:
    before, after = volume.path.read_bytes(), volume.zeroed()
    for name in (LABEL, "vmsecname"):
        assert name[:5].encode("utf-16-le") in before
        assert name[:5].encode("utf-16-le") not in after


def test_without_the_mapped_extents_every_body_stays(volume: Volume) -> None:
    after = volume.zeroed()
    for n in range(ENTRIES):
        assert b"%03d" % n + BODY in after


def test_without_the_mapped_extents_tools_find_nothing(
    volume: Volume, tmp_path: pathlib.Path
) -> None:
    require_tool("blkid")
    sealed = tmp_path / "sealed.img"
    sealed.write_bytes(volume.zeroed())
    assert tool("fls", "-f", "exfat", "-r", sealed, check=False) == ""
    assert tool("blkid", "-p", sealed, check=False) == ""
    with pytest.raises(subprocess.CalledProcessError):
        tool("fsck.exfat", "-n", sealed)
    assert not is_exfat(FileSource(sealed))


def test_sealed_and_unsealed_is_byte_identical_and_sound(
    volume: Volume, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "disk.img"
    shutil.copyfile(volume.path, path)
    before, store = digest(path), Store()
    seal(path, store)
    assert "vmsec".encode("utf-16-le") not in path.read_bytes()
    unseal(path, store)
    assert digest(path) == before
    tool("fsck.exfat", "-n", path)


def test_a_volume_of_4k_sectors_is_mapped(tmp_path: pathlib.Path) -> None:
    require_root()
    require_tool("mkfs.exfat", "losetup")
    path = tmp_path / "volume.img"
    path.write_bytes(bytes(64 << 20))
    device = tool("losetup", "-f", "--show", "-b", "4096", path).strip()
    try:
        tool("mkfs.exfat", "-L", LABEL, device)
    finally:
        tool("losetup", "-d", device)
    first, *_, root = map_exfat(FileSource(path)).extents
    assert (first.offset, first.length) == (0, 24 * 4096)
    assert root.kind is MetadataClass.DIRECTORY
    wide = LABEL.encode("utf-16-le")
    assert wide in path.read_bytes()[root.offset : root.end]
