"""The map of XFS volumes that the kernel has written, and of cut-off ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import ext, xfs
from tests.support.loop import can_mount, mounted
from tests.support.tools import missing, require_root, require_tool
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import map_xfs

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

VARIANTS = {
    "default": (),
    "1k": ("-b", "size=1024", "-m", "rmapbt=1", "-l", "size=16m"),
    "small-inodes": ("-i", "size=512", "-n", "size=65536"),
    "large-counts": ("-i", "nrext64=1,size=1024", "-m", "rmapbt=1,reflink=1"),
    "4k-sectors": ("-s", "size=4096", "-m", "bigtime=0,inobtcount=0"),
    "no-finobt": ("-m", "finobt=0,reflink=0"),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    require_root()
    require_tool(*xfs.TOOLS, "mount", "cp")
    return str(request.param)


@pytest.fixture
def image(variant: str, tmp_path: pathlib.Path) -> pathlib.Path:
    path = xfs.make_image(tmp_path / "volume.img", *VARIANTS[variant])
    if not can_mount(path, tmp_path / "probe"):
        missing("loop", f"cannot mount an XFS image of {variant}")
    return path


def check_names(image: pathlib.Path, scratch: pathlib.Path) -> None:
    """No name, target or attribute is left outside the map."""
    plain = image.read_bytes()
    rest = ext.zero_mapped(image, scratch, map_of(image))
    for marker in ext.MARKERS:
        assert marker in plain
        assert marker not in rest


def map_of(image: pathlib.Path) -> VolumeMap:
    return map_xfs(ext.FileSource(image))


def sizes(volume: VolumeMap) -> dict[MetadataClass, int]:
    found = dict.fromkeys((extent.kind for extent in volume.extents), 0)
    for extent in volume.extents:
        found[extent.kind] += extent.length
    return found


def fill(root: pathlib.Path) -> list[str]:
    """Make all kinds of metadata; return the files with content."""
    ext.make_tree(root, entries=1000)
    xfs.fragment(root, rounds=60)
    return xfs.data_files(root)


def test_map_of_a_volume_written_by_the_kernel(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with mounted(image, tmp_path / "mount") as root:
        files = fill(root)
    volume = map_of(image)
    truth = xfs.read_truth(image, files)
    assert truth.data.sum() * truth.block_bytes >= ext.MIB
    xfs.check(truth, volume)
    check_names(image, tmp_path / "rest")
    kinds = set(sizes(volume))
    assert {MetadataClass.EXTENT_TREE, MetadataClass.XATTR} <= kinds


def test_map_of_a_cut_off_guest_is_that_after_recovery(
    variant: str, image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    crashed, repaired = tmp_path / "crashed.img", tmp_path / "repaired.img"
    with mounted(image, tmp_path / variant) as root:
        fill(root)
        os.sync()
        for number in range(300):
            (root / f"{ext.NAME}-late-{number}").mkdir()
        for path in list((root / f"{ext.NAME}-many").iterdir())[::3]:
            path.unlink()
        shutil.rmtree(root / f"{ext.NAME}-side-a")
        shutil.copytree(root / f"{ext.NAME}-side-b", root / f"{ext.NAME}-copy")
        sync_directory(root)
        copy(image, crashed)
    copy(crashed, repaired)
    volume = map_of(crashed)
    assert "the guest did not unmount the file system" in volume.notes
    with mounted(repaired, tmp_path / "recovery") as root:
        files = xfs.data_files(root)
    after = map_of(repaired)
    assert after.notes == ()
    truth = xfs.read_truth(repaired, files)
    xfs.check(truth, after)
    rest = ext.zero_mapped(crashed, tmp_path / "rest", volume)
    for block in np.flatnonzero(truth.free).tolist():
        size = truth.block_bytes
        rest[block * size : (block + 1) * size] = bytes(size)
    assert not any(marker in rest for marker in ext.MARKERS)
    before, now = sizes(volume), sizes(after)
    for kind in MetadataClass:
        if kind is not MetadataClass.BLOCK_BITMAP:
            assert before.get(kind) == now.get(kind), kind


def sync_directory(path: pathlib.Path) -> None:
    """Bring everything into the log, but not to its place."""
    directory = os.open(path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    command = ("cp", "--sparse=always", str(source), str(target))
    subprocess.run(command, check=True, timeout=60)


def test_sparse_inode_chunks_are_mapped_without_their_holes(
    tmp_path: pathlib.Path,
) -> None:
    """Seven free blocks have no room for a chunk, but for half of one."""
    require_root()
    require_tool(*xfs.TOOLS, "xfs_io", "mount")
    image = xfs.make_image(tmp_path / "i", "-i", "sparse=1", mib=64)
    if not can_mount(image, tmp_path / "m"):
        missing("loop", "cannot mount an XFS image")
    with mounted(image, tmp_path / "m") as root:
        files = ["/large", "/rest", "/reserve"]
        free = os.statvfs(root).f_bavail * 4096 >> 20
        large = ("xfs_io", "-f", str(root / "large"))
        xfs.run(*large, "-c", f"falloc 0 {free - 4}m")
        with contextlib.suppress(OSError), (root / "rest").open("wb") as rest:
            while True:
                rest.write(bytes(65536))
                os.fsync(rest.fileno())
        holes = [f"fpunch {n * 64}k 28k" for n in range(100, 400)]
        xfs.run(*large, *(word for hole in holes for word in ("-c", hole)))
        # What the kernel holds in reserve is in one piece: take that, too.
        reserve = str(root / "reserve")
        xfs.run("xfs_io", "-f", reserve, "-c", "falloc 0 4m")
        for number in range(1500):
            (root / f"{ext.NAME}-{number:04}").touch()
    xfs.check(xfs.read_truth(image, files), map_of(image))
    lengths = {
        extent.length % (64 * 512)
        for extent in map_of(image).extents
        if extent.kind is MetadataClass.INODE_TABLE
    }
    assert lengths != {0}


def test_file_deleted_while_open_keeps_its_metadata_mapped(
    tmp_path: pathlib.Path,
) -> None:
    """Orphans own blocks until the next mount, though no name leads there."""
    require_root()
    require_tool(*xfs.TOOLS, "mount")
    image = xfs.make_image(tmp_path / "i", mib=64)
    if not can_mount(image, tmp_path / "m"):
        missing("loop", "cannot mount an XFS image")
    crashed = tmp_path / "crashed"
    with mounted(image, tmp_path / "m") as root:
        xfs.fragment(root, rounds=60)
        with (root / f"{ext.NAME}-file-a").open("rb"):
            os.sync()
            before = sizes(map_of(image))
            (root / f"{ext.NAME}-file-a").unlink()
            os.sync()
            copy(image, crashed)
    kind = MetadataClass.XATTR
    assert sizes(map_of(crashed))[kind] == before[kind] > 40 * 17000


def test_quota_files_are_metadata(tmp_path: pathlib.Path) -> None:
    """Not every kernel has quotas, so that xfs_db makes one of a file."""
    require_tool(*xfs.TOOLS)
    tree = xfs.plain_tree(tmp_path / "tree")
    image = xfs.make_image(tmp_path / "i", tree=tree, mib=64)
    assert MetadataClass.SPECIAL_INODE not in sizes(map_of(image))
    path = f"path /{ext.NAME}-body"
    inode = xfs.run(
        "xfs_db", "-r", "-c", path, "-c", "p v3.inumber", str(image)
    )
    number = inode.split("=")[1].strip()
    version = xfs.run(
        "xfs_db", "-r", "-c", "sb 0", "-c", "p versionnum", str(image)
    )
    bits = int(version.split("=")[1], 16) | 0x40
    for field, value in (("uquotino", number), ("versionnum", f"{bits:#x}")):
        command = f"write {field} {value}"
        xfs.run("xfs_db", "-x", "-c", "sb 0", "-c", command, str(image))
    assert sizes(map_of(image))[MetadataClass.SPECIAL_INODE] == ext.MIB


def test_external_log_and_realtime_device_are_named(
    tmp_path: pathlib.Path,
) -> None:
    require_tool(*xfs.TOOLS)
    for name in ("log", "realtime"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(32 * ext.MIB)
    image = xfs.make_image(
        *(tmp_path / "i", "-l", f"logdev={tmp_path / 'log'},size=8m"),
        *("-r", f"rtdev={tmp_path / 'realtime'}"),
    )
    volume = map_of(image)
    assert "log is on another device" in volume.notes[0]
    assert "realtime device" in volume.notes[1]
    kinds = set(sizes(volume))
    assert MetadataClass.JOURNAL not in kinds
    assert MetadataClass.SPECIAL_INODE in kinds


def test_map_of_a_volume_that_was_grown(tmp_path: pathlib.Path) -> None:
    require_root()
    require_tool(*xfs.TOOLS, "xfs_growfs", "mount")
    image = xfs.make_image(tmp_path / "i", mib=64)
    if not can_mount(image, tmp_path / "m"):
        missing("loop", "cannot mount an XFS image")
    with image.open("r+b") as file:
        file.truncate(1000 * ext.MIB)
    crashed = tmp_path / "crashed"
    with mounted(image, tmp_path / "m") as root:
        ext.make_tree(root, entries=300)
        xfs.run("xfs_growfs", str(root))
        sync_directory(root)
        copy(image, crashed)
        files = xfs.data_files(root)
    volume = map_of(image)
    xfs.check(xfs.read_truth(image, files), volume)
    copies = [e for e in volume.extents if e.kind is MetadataClass.SUPERBLOCK]
    assert len(copies) > 50
    assert sizes(map_of(crashed))[MetadataClass.SUPERBLOCK] == 512 * len(
        copies
    )
