"""The map of volumes that the kernel has written, and of cut-off ones."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from tests.support import ext
from tests.support.loop import can_mount, loop_device, mounted
from tests.support.tools import missing, require_root, require_tool
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.extent import MetadataClass

VARIANTS = {
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext3": ("-t", "ext3", "-b", "4096"),
    "ext4-1k": ("-t", "ext4", "-b", "1024"),
    "ext4-4k": ("-t", "ext4", "-b", "4096", "-O", "ea_inode,inline_data"),
    "bigalloc": (
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "bigalloc,metadata_csum_seed",
    ),
    "casefold": ("-t", "ext4", "-O", "casefold", "-E", "encoding=utf8"),
    "uninit_bg": ("-t", "ext4", "-O", "^metadata_csum,uninit_bg"),
    "orphan_file": ("-t", "ext4", "-O", "orphan_file,fast_commit"),
    "journalled-data": ("-t", "ext4", "-b", "1024"),
}
OPTIONS = {"journalled-data": "data=journal,nodelalloc"}


CASEFOLD = pathlib.Path("/sys/fs/ext4/features/casefold")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    require_root()
    require_tool("mke2fs", "dumpe2fs", "debugfs", "e2fsck", "mount")
    return str(request.param)


@pytest.fixture
def image(variant: str, tmp_path: pathlib.Path) -> pathlib.Path:
    path = ext.make_image(
        tmp_path / "volume.img", *VARIANTS[variant], "-N", "8192", mib=96
    )
    if variant == "casefold" and not CASEFOLD.exists():
        pytest.skip("this kernel was built without CONFIG_UNICODE")
    if not can_mount(path, tmp_path / "probe"):
        missing("loop", f"cannot mount an ext image of {variant}")
    return path


def options(variant: str) -> str:
    return OPTIONS.get(variant, "noatime")


def fill(root: pathlib.Path, entries: int) -> None:
    """Make large directories at once, fragmented files, large attributes."""
    for number in range(entries):
        for side in "ab":
            place = root / f"{ext.NAME}-{side}"
            place.mkdir(exist_ok=True)
            (place / f"{ext.NAME}-{ext.UNICODE_NAME}-{number:05}").touch()
    (root / f"{ext.NAME}-body").write_bytes(ext.body())
    (root / f"{ext.NAME}-link").symlink_to(ext.TARGET.ljust(100, "x"))
    ext.write_holes(root / f"{ext.NAME}-holes", count=1500, step=8192)
    size = 4000 if root.name == "ext4-4k" else 50  # EA_INODE or a block
    os.setxattr(root / f"{ext.NAME}-body", "user.a", ext.ATTRIBUTE * size)


def commit(root: pathlib.Path) -> None:
    """Bring everything into the journal, but not to its place."""
    for path in [root / f"{ext.NAME}-body", root / f"{ext.NAME}-holes", root]:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def check(
    image: pathlib.Path, crashed: pathlib.Path, files: list[str]
) -> None:
    """Compare the map of ``crashed`` with e2fsprogs' word on ``image``."""
    volume = map_ext(ext.FileSource(crashed))
    truth = ext.read_truth(image, files)
    mapped = truth.mapped(volume)
    assert truth.data.sum() * truth.block_bytes >= ext.MIB
    assert not (mapped & truth.data).any()
    left = truth.allocated & ~truth.data & ~mapped & ~truth.never_written
    if truth.cluster_blocks > 1:
        used = mapped | truth.data | truth.never_written
        left &= ~truth.in_partial_clusters(used)
    assert not left.any()


def check_names(image: pathlib.Path, scratch: pathlib.Path) -> None:
    """No name, target or attribute is left outside the map."""
    volume = map_ext(ext.FileSource(image))
    plain = image.read_bytes()
    rest = ext.zero_mapped(image, scratch, volume)
    for marker in ext.MARKERS:
        assert marker in plain
        assert marker not in rest


def test_map_of_a_volume_written_by_the_kernel(
    variant: str, image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with mounted(image, tmp_path / variant, options(variant)) as root:
        fill(root, entries=1500)
        files = ext.regular_files(root)
    check(image, image, files)
    check_names(image, tmp_path / "rest")
    kinds = {extent.kind for extent in map_ext(ext.FileSource(image)).extents}
    assert {MetadataClass.EXTENT_TREE, MetadataClass.XATTR} <= kinds


def test_map_of_a_cut_off_guest_is_that_after_recovery(
    variant: str, image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if variant == "ext2":
        pytest.skip("ext2 has no journal")
    crashed, repaired = tmp_path / "crashed.img", tmp_path / "repaired.img"
    with mounted(image, tmp_path / variant, options(variant)) as root:
        fill(root, entries=700)
        files = ext.regular_files(root)
        commit(root)
        (root / f"{ext.NAME}-too-late").touch()
        shutil.copyfile(image, crashed)
    shutil.copyfile(crashed, repaired)
    notes = map_ext(ext.FileSource(crashed)).notes
    assert any("journal were taken into account" in note for note in notes)
    with mounted(repaired, tmp_path / "recovery"):
        pass
    check(repaired, crashed, files)
    check_names(crashed, tmp_path / "rest")


def test_file_deleted_while_open_keeps_its_metadata_mapped(
    tmp_path: pathlib.Path,
) -> None:
    """Orphans own blocks until the next mount, though no name leads there."""
    require_root()
    require_tool("mke2fs", "mount")
    image = ext.make_image(tmp_path / "i", "-t", "ext4", "-b", "1024")
    if not can_mount(image, tmp_path / "m"):
        missing("loop", "cannot mount an ext4 image")
    crashed = tmp_path / "crashed"
    with mounted(image, tmp_path / "m") as root:
        path = root / "orphan"
        ext.write_holes(path, count=1000, step=8192)
        with path.open("rb"):
            os.sync()
            before = _tree_bytes(image)
            path.unlink()
            os.sync()
            shutil.copyfile(image, crashed)
    assert _tree_bytes(crashed) == before > 4096


def _tree_bytes(image: pathlib.Path) -> int:
    return sum(
        extent.length
        for extent in map_ext(ext.FileSource(image)).extents
        if extent.kind is MetadataClass.EXTENT_TREE
    )


def test_external_journal_is_mapped_whole_and_named(
    tmp_path: pathlib.Path,
) -> None:
    require_root()
    require_tool("mke2fs", "losetup")
    log = ext.make_image(
        tmp_path / "log", "-b", "4096", "-O", "journal_dev", mib=16
    )
    volume = map_ext(ext.FileSource(log))
    assert volume.filesystem == "jbd"
    assert sum(extent.length for extent in volume.extents) == 16 * ext.MIB
    with loop_device(log) as device:
        data = ext.make_image(
            *(tmp_path / "data", "-t", "ext4", "-b", "4096"),
            *("-J", f"device={device}"),
        )
    volume = map_ext(ext.FileSource(data))
    assert "another device" in volume.notes[0]
    kinds = {extent.kind for extent in volume.extents}
    assert MetadataClass.JOURNAL not in kinds


@pytest.mark.parametrize("features", ["resize_inode", "meta_bg,^resize_inode"])
def test_map_of_a_volume_that_was_grown(
    tmp_path: pathlib.Path, features: str
) -> None:
    require_tool("mke2fs", "resize2fs", "dumpe2fs", "debugfs", "e2fsck")
    tree = ext.make_tree(tmp_path / "tree", entries=300)
    image = ext.make_image(
        *(tmp_path / "volume.img", "-t", "ext4", "-b", "1024", "-g", "2048"),
        *("-O", features),
        tree=tree,
        mib=32,
    )
    ext.run("e2fsck", "-fyD", str(image), ok=(0, 1))
    with image.open("r+b") as file:
        file.truncate(256 * ext.MIB)
    ext.run("resize2fs", str(image))
    check(image, image, ext.regular_files(tree))
    check_names(image, tmp_path / "rest")
