"""The map of XFS on images of many forms, filled by mkfs.xfs.

Oracles: xfs_db for every block (tests/support/xfs.py), and an attacker with
xfs_repair on an image whose mapped extents are zero.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ext, xfs
from tests.support.tools import require_tool
from vmsec.ondisk import probe
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import is_xfs, map_xfs

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

VARIANTS = {
    "v4": ("-m", "crc=0"),
    "v4-512": ("-m", "crc=0", "-b", "size=512"),
    "v4-512-old-log": ("-m", "crc=0", "-b", "size=512", "-l", "version=1"),
    "v4-ftype": ("-m", "crc=0", "-n", "ftype=1", "-i", "size=1024"),
    "v4-ascii-ci": ("-m", "crc=0", "-n", "version=ci,size=8192"),
    "v4-4k-sectors": ("-m", "crc=0", "-s", "size=4096"),
    "v5": (),
    "v5-1k": ("-b", "size=1024"),
    "v5-64k": ("-b", "size=65536"),
    "v5-2k-inodes": ("-i", "size=2048"),
    "v5-4k-sectors": ("-s", "size=4096"),
    "v5-large-directory-blocks": ("-n", "size=16384"),
    "v5-plain": (
        *("-m", "finobt=0,reflink=0,rmapbt=0,bigtime=0,inobtcount=0"),
        *("-i", "sparse=0"),
    ),
    "v5-all": (
        *("-m", "finobt=1,reflink=1,rmapbt=1,bigtime=1,inobtcount=1"),
        *("-i", "sparse=1,nrext64=1"),
    ),
    "v5-many-groups": ("-d", "agsize=16m", "-m", "rmapbt=1"),
    "v5-short-last-group": ("-d", "agsize=20m", "-b", "size=1024"),
    "v5-striped-log": ("-l", "su=256k", "-d", "su=64k,sw=4"),
}


LARGE = {"v5-64k", "v5-striped-log"}


@dataclass(frozen=True)
class Image:
    """A variant, its image, the directory it was filled from, its map.

    ``rest`` is what is left when every mapped extent is zero.
    """

    name: str
    path: pathlib.Path
    tree: pathlib.Path
    volume: VolumeMap
    rest: bytearray


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    require_tool(*xfs.TOOLS)
    return xfs.plain_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module", params=VARIANTS)
def image(
    request: pytest.FixtureRequest,
    tree: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    path = tmp_path_factory.mktemp("xfs") / "volume.img"
    mib = 256 if request.param in LARGE else 64
    xfs.make_image(path, *VARIANTS[request.param], tree=tree, mib=mib)
    volume = map_xfs(ext.FileSource(path))
    rest = ext.zero_mapped(path, path.with_suffix(".rest"), volume)
    yield Image(request.param, path, tree, volume, rest)
    shutil.rmtree(path.parent)


@pytest.fixture
def scratch(image: Image, tmp_path: pathlib.Path) -> Any:
    """A copy of the rest that a tool may write to."""
    copy = tmp_path / "rest"
    xfs.run(
        "cp",
        "--sparse=always",
        str(image.path.with_suffix(".rest")),
        str(copy),
    )
    yield copy
    copy.unlink()


def test_every_block_is_mapped_free_or_file_data(image: Image) -> None:
    truth = xfs.read_truth(image.path, xfs.data_files(image.tree))
    assert truth.data.sum() * truth.block_bytes >= 1500 * 1024
    xfs.check(truth, image.volume)


def test_a_clean_volume_has_no_notes(image: Image) -> None:
    assert image.volume.filesystem == "xfs"
    assert image.volume.notes == ()


def test_map_is_sorted_disjoint_and_inside(image: Image) -> None:
    end = 0
    for extent in image.volume.extents:
        assert extent.offset >= end
        assert extent.length > 0
        end = extent.end
    assert end <= image.path.stat().st_size


def test_nothing_that_names_a_file_outlives_the_mapped_extents(
    image: Image,
) -> None:
    plain = image.path.read_bytes()
    for marker in (ext.NAME, ext.UNICODE_NAME, ext.TARGET):
        assert marker.encode() in plain
        assert marker.encode() not in image.rest
    for magic in (b"XFSB", b"XAGF", b"XAGI", b"XD2D", b"XDD3", b"IAB3"):
        assert not any(
            image.rest.startswith(magic, at)
            for at in range(0, len(image.rest), 512)
        )


def test_file_bodies_stay_outside_the_map(image: Image) -> None:
    whole = ext.body()
    for start in range(0, len(whole), 65536):
        assert whole[start : start + 65536] in image.rest


def test_xfs_repair_finds_nothing_in_what_is_left(
    scratch: pathlib.Path,
) -> None:
    assert not is_xfs(ext.FileSource(scratch))
    said = xfs.run("xfs_repair", str(scratch), ok=(1,))
    assert "exiting now" in said.lower()
    assert no_name_in(scratch)


def test_the_geometry_alone_brings_no_name_back(
    image: Image, scratch: pathlib.Path
) -> None:
    """mkfs.xfs with the right options, then xfs_repair, on what is left."""
    options = VARIANTS[image.name]
    xfs.run("mkfs.xfs", "-q", "-f", "-K", *options, str(scratch))
    xfs.run("xfs_repair", str(scratch), ok=(0, 1, 2))
    assert no_name_in(scratch)


def no_name_in(path: pathlib.Path) -> bool:
    content = path.read_bytes()
    return not any(marker in content for marker in ext.MARKERS)


def test_the_prober_knows_it(image: Image) -> None:
    found = probe.probe_volume(ext.FileSource(image.path))
    assert found.status is probe.Status.FILESYSTEM
    assert found.content == image.volume


def test_symbolic_links_and_directories_have_their_class(
    image: Image,
) -> None:
    kinds = {extent.kind for extent in image.volume.extents}
    assert MetadataClass.DIRECTORY in kinds
    assert (MetadataClass.SYMLINK in kinds) == (image.name != "v5-2k-inodes")
