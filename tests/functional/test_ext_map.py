"""The map of ext2/3/4 on real images of many feature sets.

Oracles: e2fsprogs for every block (tests/support/ext.py), and an attacker
with all its tools on an image whose mapped extents are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ext
from tests.support.tools import require_tool
from vmsec.ondisk.ext import is_ext, map_ext
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

VARIANTS = {
    "ext2": ("-t", "ext2"),
    "ext2-revision-0": ("-t", "ext2", "-r", "0"),
    "ext2-superblock-in-every-group": (
        *("-t", "ext2", "-O", "^sparse_super,^resize_inode", "-g", "1024"),
    ),
    "ext3": ("-t", "ext3"),
    "ext4-4k": ("-t", "ext4", "-b", "4096", "-N", "8192"),
    "ext4-1k": ("-t", "ext4", "-b", "1024"),
    "ext4-2k": ("-t", "ext4", "-b", "2048"),
    "ext4-64k": ("-t", "ext4", "-b", "65536", "-N", "8192"),
    "bigalloc": ("-t", "ext4", "-O", "bigalloc", "-C", "16384", "-b", "4096"),
    "bigalloc-1k": ("-t", "ext4", "-O", "bigalloc", "-b", "1024"),
    "meta_bg": (
        *("-t", "ext4", "-b", "1024", "-g", "512"),
        *("-O", "meta_bg,^resize_inode"),
    ),
    "meta_bg-32-bit": (
        *("-t", "ext4", "-b", "1024", "-g", "256"),
        *("-O", "meta_bg,^resize_inode,^64bit,^flex_bg"),
    ),
    "sparse_super2": ("-t", "ext4", "-O", "sparse_super2", "-g", "2048"),
    "inline_data": ("-t", "ext4", "-O", "inline_data"),
    "no-journal": ("-t", "ext4", "-O", "^has_journal"),
    "no-64bit": ("-t", "ext4", "-O", "^64bit,^flex_bg"),
    "uninit_bg": ("-t", "ext4", "-O", "^metadata_csum,uninit_bg"),
    "no-group-checksums": ("-t", "ext4", "-O", "^metadata_csum,^uninit_bg"),
    "quota": ("-t", "ext4", "-O", "quota,project", "-E", "quotatype=usrquota"),
    "all-quotas": (
        *("-t", "ext4", "-O", "quota,project"),
        *("-E", "quotatype=usrquota:grpquota:prjquota"),
    ),
    "orphan_file-mmp-seed": (
        *("-t", "ext4", "-O", "orphan_file,mmp,metadata_csum_seed"),
    ),
    "casefold-and-friends": (
        *("-t", "ext4", "-O"),
        "casefold,encrypt,verity,large_dir,ea_inode,fast_commit,stable_inodes",
    ),
    "small-inodes": ("-t", "ext4", "-I", "128"),
    "large-inodes": ("-t", "ext4", "-I", "1024", "-b", "4096", "-N", "8192"),
}


@dataclass(frozen=True)
class Image:
    """A variant, its image, the directory it was filled from, its map."""

    name: str
    path: pathlib.Path
    tree: pathlib.Path
    volume: VolumeMap


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    require_tool("mke2fs", "dumpe2fs", "debugfs", "e2fsck")
    return ext.make_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module", params=VARIANTS)
def image(
    request: pytest.FixtureRequest,
    tree: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    path = tmp_path_factory.mktemp("ext") / "volume.img"
    ext.make_image(path, *VARIANTS[request.param], tree=tree)
    yield Image(request.param, path, tree, map_ext(ext.FileSource(path)))
    path.unlink()


def check_against_e2fsprogs(image: Image) -> None:
    """Every allocated block is mapped or the data of a file, never both."""
    truth = ext.read_truth(image.path, ext.regular_files(image.tree))
    mapped = truth.mapped(image.volume)
    assert truth.data.sum() * truth.block_bytes >= ext.MIB
    assert not (mapped & truth.data).any()
    assert not (mapped & ~truth.allocated)[1:].any()
    left = truth.allocated & ~truth.data & ~mapped & ~truth.never_written
    if truth.cluster_blocks > 1:
        used = mapped | truth.data | truth.never_written
        left &= ~truth.in_partial_clusters(used)
    assert not left.any()


def test_every_allocated_block_is_mapped_or_file_data(image: Image) -> None:
    check_against_e2fsprogs(image)


def test_map_is_sorted_disjoint_and_inside(image: Image) -> None:
    end = 0
    for extent in image.volume.extents:
        assert extent.offset >= end
        assert extent.length > 0
        end = extent.end
    assert end <= image.path.stat().st_size


def test_no_name_target_or_attribute_outlives_the_mapped_extents(
    image: Image, tmp_path: pathlib.Path
) -> None:
    plain = image.path.read_bytes()
    rest = ext.zero_mapped(image.path, tmp_path / "zero", image.volume)
    for marker in ext.MARKERS:
        assert marker not in rest
        # Revision 0 has no attributes.
        assert marker in plain or (marker, image.name) == (
            ext.ATTRIBUTE,
            "ext2-revision-0",
        )


def test_file_bodies_stay_outside_the_map(
    image: Image, tmp_path: pathlib.Path
) -> None:
    rest = ext.zero_mapped(image.path, tmp_path / "zero", image.volume)
    whole = ext.body()
    for start in range(0, len(whole), 1024):
        assert whole[start : start + 1024] in rest


def test_no_tool_lists_or_repairs_what_is_left(
    image: Image, tmp_path: pathlib.Path
) -> None:
    require_tool("fls")
    rest = tmp_path / "zero"
    ext.zero_mapped(image.path, rest, image.volume)
    copies = [
        extent.offset
        for extent in image.volume.extents
        if extent.kind is MetadataClass.SUPERBLOCK
    ]
    assert not is_ext(ext.FileSource(rest))
    ext.run("e2fsck", "-fy", str(rest), ok=(8,))
    size = ext.read_truth(image.path, []).block_bytes
    for offset in copies[1:4]:
        number = str(offset // size)
        ext.run(
            *("e2fsck", "-fy", "-b", number, "-B", str(size), str(rest)),
            ok=(8,),
        )
    listing = ext.run("fls", "-r", str(rest), ok=(0, 1))
    assert ext.NAME not in listing


def test_last_resort_of_mke2fs_finds_no_name(
    image: Image, tmp_path: pathlib.Path
) -> None:
    rest = tmp_path / "zero"
    ext.zero_mapped(image.path, rest, image.volume)
    ext.run("mke2fs", "-q", "-F", "-S", "-t", "ext4", str(rest))
    ext.run("e2fsck", "-fy", str(rest), ok=(0, 1, 2, 4, 8, 9, 12))
    repaired = rest.read_bytes()
    for marker in ext.MARKERS:
        assert marker not in repaired
