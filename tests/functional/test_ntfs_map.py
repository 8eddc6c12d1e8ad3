"""The NTFS map against real volumes, judged by other people's tools.

The measure is the strongest there is: with every mapped extent zeroed, no
name is left in the image and no tool finds a file; and of the users' data not
one sector is mapped.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import ntfs_volume
from tests.support.disk import copy_sparse
from tests.support.ntfs_volume import (
    body,
    count_markers,
    fill,
    fragment_mft,
    make_ntfs,
    mounted,
    opened,
    run,
    zero_extents,
)
from tests.support.tools import require_root, require_tool
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.ntfs import is_ntfs, map_ntfs

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

LARGE_CLUSTERS = 1 << 20
ATTRIBUTE = re.compile(
    r"^Type: (\$\w+) .*Name: (\S+) +(Non-Resident|Resident)"
)


@dataclass(frozen=True)
class Filled:
    """A real volume with planted names, and our map of it."""

    path: pathlib.Path
    sector: int
    cluster: int
    files: int
    map: VolumeMap

    def covers(self, offset: int, length: int = 1) -> bool:
        """Whether any of these bytes is mapped."""
        starts = [extent.offset for extent in self.map.extents]
        index = bisect_right(starts, offset + length - 1) - 1
        return index >= 0 and self.map.extents[index].end > offset

    def kinds(self) -> set[MetadataClass]:
        return {extent.kind for extent in self.map.extents}


def read_map(path: pathlib.Path, sector: int) -> VolumeMap:
    with opened(path, sector) as source:
        assert is_ntfs(source)
        return map_ntfs(source)


@pytest.fixture(
    scope="module",
    params=[
        (512, 512),
        (512, 4096),
        (512, 65536),
        (512, 2 << 20),
        (1024, 2048),
        (4096, 4096),
        (4096, 65536),
    ],
    ids=lambda pair: f"sector{pair[0]}-cluster{pair[1]}",
)
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Filled:
    """A volume of each geometry, filled through ntfs-3g."""
    require_root()
    require_tool(*ntfs_volume.TOOLS)
    sector, cluster = request.param
    directory = tmp_path_factory.mktemp("ntfs")
    large = cluster > LARGE_CLUSTERS
    files, directories = (40, 8) if large else (3300, 200)
    path = make_ntfs(
        directory / "volume.img",
        size_mib=640 if large else 192,
        sector=sector,
        cluster=cluster,
    )
    with mounted(path, directory / "mount") as root:
        fill(root, files=files, directories=directories)
    found = read_map(path, sector)
    return Filled(path, sector, cluster, files, found)


@pytest.fixture
def zeroed(filled: Filled, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the volume with every mapped extent zeroed."""
    path = copy_sparse(filled.path, tmp_path / "zeroed.img")
    zero_extents(path, filled.map.extents)
    return path


def test_no_planted_name_is_left_outside_the_map(
    filled: Filled, zeroed: pathlib.Path
) -> None:
    assert count_markers(filled.path) > 2 * filled.files
    assert count_markers(zeroed) == 0


@pytest.mark.parametrize("name", ["body", "stream"])
def test_no_sector_of_a_file_is_mapped(filled: Filled, name: str) -> None:
    image = filled.path.read_bytes()
    content = body(name)
    offset = 0
    for start in range(0, len(content), filled.sector):
        piece = content[start : start + 64]
        offset = image.find(piece, offset)
        offset = image.find(piece) if offset < 0 else offset
        assert offset >= 0
        assert not filled.covers(offset, filled.sector)


def test_no_tool_finds_the_volume_or_a_file_of_it(
    filled: Filled, zeroed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    require_tool("fls", "ntfsundelete", "ntfsfix", "ntfsinfo", "testdisk")

    def verdicts(path: pathlib.Path) -> list[bool]:
        listed = run("fls", "-r", "-f", "ntfs", str(path))
        deleted = run("ntfsundelete", "-f", "-s", str(path))
        point = tmp_path / "refused"
        point.mkdir(exist_ok=True)
        mount = run("ntfs-3g", "-o", "ro", str(path), str(point))
        if mount.returncode == 0:
            assert run("umount", str(point)).returncode == 0
        return [
            b"PlantedName" in listed.stdout,
            b"PlantedName" in deleted.stdout,
            run("ntfsfix", "-n", str(path)).returncode == 0,
            run("ntfsinfo", "-m", str(path)).returncode == 0,
            b"NTFS" in run("testdisk", "/list", str(path)).stdout,
            mount.returncode == 0,
        ]

    # The tools do find things where nothing was zeroed; those that cannot
    # read sectors of 4096 bytes from a file are left out by this control.
    control = verdicts(copy_sparse(filled.path, tmp_path / "plain.img"))
    assert sum(control) >= 4
    assert not any(verdicts(zeroed))


def test_every_class_of_a_living_volume_is_there(filled: Filled) -> None:
    kinds = MetadataClass
    expected = {
        kinds.BOOT_SECTOR,
        kinds.MFT,
        kinds.MFT_MIRROR,
        kinds.LOGFILE,
        kinds.BITMAP,
        kinds.INDEX,
        kinds.SYSTEM_FILE,
        kinds.XATTR,
    }
    assert expected <= filled.kinds()
    if filled.sector < 4096 and filled.cluster <= LARGE_CLUSTERS:
        assert kinds.SYMLINK in filled.kinds()
        assert kinds.ATTRIBUTE_LIST in filled.kinds()


def test_the_boot_sector_and_its_copy_are_mapped(filled: Filled) -> None:
    size = filled.path.stat().st_size
    first, last = filled.map.extents[0], filled.map.extents[-1]
    assert first.offset == 0
    assert first.kind is last.kind is MetadataClass.BOOT_SECTOR
    assert last[:2] == (size - filled.sector, filled.sector)


def inode_clusters(path: pathlib.Path, inode: int) -> dict[bool, set[int]]:
    """Clusters of an inode by sleuthkit: ``True`` for those of $DATA."""
    found: dict[bool, set[int]] = {True: set(), False: set()}
    current: set[int] | None = None
    text = run("istat", "-f", "ntfs", str(path), str(inode)).stdout
    for line in text.decode(errors="replace").splitlines():
        head = ATTRIBUTE.match(line)
        if head:
            away = head[3] == "Non-Resident"
            current = found[head[1] == "$DATA"] if away else None
        elif current is not None:
            current.update(int(word) for word in line.split() if word != "0")
    return found


def sleuthkit_clusters(path: pathlib.Path) -> tuple[set[int], set[int]]:
    """(metadata, user data) clusters of all files by sleuthkit."""
    listing = run("ils", "-a", "-f", "ntfs", str(path)).stdout.decode()
    inodes = [int(row) for row in re.findall(r"^(\d+)\|", listing, re.M)]
    assert len(inodes) > 200
    metadata: set[int] = set()
    data: set[int] = set()
    for inode in sorted({*range(12), *inodes}):
        clusters = inode_clusters(path, inode)
        metadata |= clusters[False]
        if inode < 12 and inode != 8:
            metadata |= clusters[True]
        elif inode != 8:
            data |= clusters[True]
    return metadata, data


def test_the_map_is_what_sleuthkit_reads(tmp_path: pathlib.Path) -> None:
    require_root()
    require_tool(*ntfs_volume.TOOLS, "istat", "ils")
    path = make_ntfs(tmp_path / "volume.img", size_mib=96)
    with mounted(path, tmp_path / "mount") as root:
        fill(root, files=210, directories=60)
    volume = read_map(path, 512)
    metadata, data = sleuthkit_clusters(path)
    links = {
        extent.offset // 4096
        for extent in volume.extents
        if extent.kind is MetadataClass.SYMLINK
    }
    mapped = {
        cluster
        for extent in volume.extents
        for cluster in range(extent.offset // 4096, -(-extent.end // 4096))
    }
    assert links
    assert metadata <= mapped
    assert mapped & data == links
    # What is left is slack behind the end of attributes, and boot sectors.
    assert len(mapped - metadata - data) < 40


def test_a_fragmented_mft_is_mapped_whole(tmp_path: pathlib.Path) -> None:
    require_root()
    require_tool(*ntfs_volume.TOOLS, "istat")
    path = make_ntfs(tmp_path / "volume.img", size_mib=48)
    with mounted(path, tmp_path / "mount") as root:
        fragment_mft(root, files=7000)
    volume = read_map(path, 512)
    mapped = {
        cluster
        for extent in volume.extents
        if extent.kind is MetadataClass.MFT
        for cluster in range(extent.offset // 4096, extent.end // 4096)
    }
    clusters = inode_clusters(path, 0)
    text = run("istat", "-f", "ntfs", str(path), "0").stdout
    assert b"$ATTRIBUTE_LIST (32" in text
    # Sleuthkit leaves out what is allocated but not yet written.
    assert clusters[True] <= mapped
    assert len(mapped - clusters[True]) < 16
    assert count_markers(path) > 14000
    zero_extents(path, volume.extents)
    assert count_markers(path) == 0
    image = path.read_bytes()
    assert image.count(b"k" * 4096) > 1000


def test_what_is_compressed_is_not_mapped(tmp_path: pathlib.Path) -> None:
    require_root()
    require_tool(*ntfs_volume.TOOLS, "istat", "fls")
    path = make_ntfs(tmp_path / "volume.img", size_mib=64)
    with mounted(path, tmp_path / "mount", ",compression") as root:
        folder = root / "packed"
        folder.mkdir()
        packed = (0x0810).to_bytes(4, "big")
        os.setxattr(folder, "system.ntfs_attrib_be", packed)
        text = b"".join(b"line %d of a text\n" % i for i in range(90000))
        (folder / "PlantedName").write_bytes(text)
    volume = read_map(path, 512)
    found = run("fls", "-r", "-f", "ntfs", str(path)).stdout.decode()
    match = re.search(r"(\d+)-128-\d+:\s+PlantedName", found)
    assert match
    inode = int(match[1])
    status = run("istat", "-f", "ntfs", str(path), str(inode)).stdout
    assert b"Compressed" in status
    data = inode_clusters(path, inode)[True]
    assert len(data) > 50
    for extent in volume.extents:
        clusters = range(extent.offset // 4096, -(-extent.end // 4096))
        assert data.isdisjoint(clusters)


def test_an_unclean_volume_is_mapped_with_a_note(
    tmp_path: pathlib.Path,
) -> None:
    require_tool("mkntfs", "ntfsfix")
    path = make_ntfs(tmp_path / "volume.img", size_mib=32)
    assert read_map(path, 512).notes == ()
    assert run("ntfsfix", str(path)).returncode == 0
    assert "dirty" in read_map(path, 512).notes[0]


@pytest.mark.slow
def test_twenty_thousand_files_are_mapped_in_a_blink(
    tmp_path: pathlib.Path,
) -> None:
    require_root()
    require_tool(*ntfs_volume.TOOLS)
    path = make_ntfs(tmp_path / "volume.img", size_mib=512)
    with mounted(path, tmp_path / "mount") as root:
        for number in range(200):
            folder = root / f"folder-{number:04d}"
            folder.mkdir()
            for index in range(100):
                name = folder / f"a-file-with-a-name-{index:04d}.txt"
                name.write_bytes(b"x" * 2000)
    with opened(path) as source:
        started = time.process_time()
        volume = map_ntfs(source)
        seconds = time.process_time() - started
    mft = sum(e.length for e in volume.extents if e.kind == "mft")
    assert mft > 20_000 * 1024
    # One record at a time would take ten times as much processor time.
    assert seconds < 1
