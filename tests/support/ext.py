"""Real ext2/3/4 images, and what e2fsprogs says about them.

The oracle shares no code with ``vmsec.ondisk.ext``: ``dumpe2fs`` says which
blocks are allocated and which were never written, ``debugfs`` says which
blocks hold the data of regular files. What is allocated and is no file's data
must be in the map; what is a file's data must not. Knows no pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable

    import numpy.typing as npt

    from vmsec.ondisk.extent import VolumeMap

MIB = 1 << 20
NAME = "vmsecname"
UNICODE_NAME = "名前-żółw"
TARGET = "vmsectarget"
ATTRIBUTE = b"vmsecattribute"
MARKERS = (
    NAME.encode(),
    UNICODE_NAME.encode(),
    TARGET.encode(),
    ATTRIBUTE,
)
"""Bytes of names, link targets and attributes: found nowhere once sealed."""

BODY_MARK = b"this is the body of a file. "
_TIMEOUT = 300


class FileSource:
    """A BlockSource over a file; counts what is read."""

    sector_bytes = 512

    def __init__(self, path: pathlib.Path) -> None:
        self._file = path.open("rb")
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        self.read_bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= self.size_bytes
        self.read_bytes += length
        return os.pread(self._file.fileno(), length, offset)


def run(*command: str, ok: tuple[int, ...] = (0,)) -> str:
    """Run a tool of e2fsprogs; return its standard output."""
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert result.returncode in ok, (command, result.stdout, result.stderr)
    return result.stdout


def make_tree(root: pathlib.Path, *, entries: int = 3000) -> pathlib.Path:
    """Fill a directory with everything that makes metadata.

    Long and short links, deep directories, one with many entries, Unicode
    names, attributes, sparse files (some need several levels of a block map),
    a 1 MiB body.
    """
    many = root / f"{NAME}-many"
    many.mkdir(parents=True)
    for number in range(entries):
        (many / f"{NAME}-{UNICODE_NAME}-{number:05}").touch()
    deep = root
    for level in range(40):
        deep /= f"{NAME}-{level}-{UNICODE_NAME}"
    deep.mkdir(parents=True)
    (deep / f"{NAME}-leaf").write_bytes(BODY_MARK)
    for number in range(50):
        (root / f"{NAME}-small-{number}").write_bytes(BODY_MARK * 200)
    (root / f"{NAME}-body").write_bytes(body())
    (root / f"{NAME}-short-link").symlink_to(f"{TARGET}-s")
    for length in (59, 60, 61, 1000):
        target = f"{TARGET}-{length}-".ljust(length, "x")
        (root / f"{NAME}-link-{length}").symlink_to(target)
    value = ATTRIBUTE * 50
    os.setxattr(root / f"{NAME}-body", "user.long", value)
    os.setxattr(many, "user.long", value)
    write_holes(root / f"{NAME}-holes", count=700, step=8192)
    write_holes(root / f"{NAME}-huge", count=6, step=1 << 30)
    return root


def write_holes(path: pathlib.Path, *, count: int, step: int) -> None:
    """Write a sparse file: a piece of 4 KiB at every ``step`` bytes."""
    with path.open("wb") as file:
        for number in range(count):
            file.seek(number * step)
            file.write((BODY_MARK * 150)[:4096])


def body() -> bytes:
    """Return 1 MiB in which every sector is different."""
    return b"".join(
        (BODY_MARK + b"%08d. " % sector).ljust(512, b"+")
        for sector in range(2048)
    )


def make_image(
    path: pathlib.Path,
    *options: str,
    tree: pathlib.Path | None = None,
    mib: int = 64,
) -> pathlib.Path:
    """Make an image with mke2fs, filled from a directory."""
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    fill = ["-d", str(tree)] if tree is not None else []
    run("mke2fs", "-q", "-F", *fill, *options, str(path))
    return path


@dataclass(frozen=True)
class Truth:
    """What e2fsprogs says; every array has one flag per block."""

    block_bytes: int
    cluster_blocks: int
    allocated: npt.NDArray[np.bool_]
    never_written: npt.NDArray[np.bool_]
    data: npt.NDArray[np.bool_]

    def mapped(self, volume: VolumeMap) -> npt.NDArray[np.bool_]:
        """Return which blocks a map touches."""
        flags = np.zeros(len(self.allocated), dtype=np.bool_)
        for extent in volume.extents:
            first = extent.offset // self.block_bytes
            flags[first : -(-extent.end // self.block_bytes)] = True
        return flags

    def in_partial_clusters(
        self, used: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Return all blocks of clusters in which any block is used."""
        size = self.cluster_blocks
        padded = np.zeros(-(-len(used) // size) * size, dtype=np.bool_)
        padded[: len(used)] = used
        whole = padded.reshape(-1, size).any(axis=1)
        return np.repeat(whole, size)[: len(used)]


def read_truth(image: pathlib.Path, files: Iterable[str]) -> Truth:
    """Ask dumpe2fs and debugfs about an image.

    Args:
        image: The volume.
        files: Paths of its regular files inside the volume.
    """
    dump = run("dumpe2fs", str(image))
    count = _number(dump, r"Block count: +(\d+)")
    size = _number(dump, r"Block size: +(\d+)")
    cluster = _number(dump, r"Cluster size: +(\d+)", size) // size
    allocated = np.ones(count, dtype=np.bool_)
    for line in re.findall(r"Free blocks: (\d[-\d, ]*)", dump):
        for first, last in _ranges(line):
            # dumpe2fs names the first block of the last free cluster.
            allocated[first : last + cluster] = False
    return Truth(
        size,
        cluster,
        allocated,
        _never_written(dump, count, size),
        _data_blocks(image, files, count),
    )


def _never_written(dump: str, count: int, size: int) -> npt.NDArray[np.bool_]:
    """Return the uninitialised bitmaps and rests of inode tables."""
    flags = np.zeros(count, dtype=np.bool_)
    inode = _number(dump, r"Inode size:\s+(\d+)")
    for group in re.split(r"^Group \d+: ", dump, flags=re.MULTILINE)[1:]:
        head = group.splitlines()[0]
        if "BLOCK_UNINIT" in head:
            flags[_number(group, r"Block bitmap at (\d+)")] = True
        if "INODE_UNINIT" in head:
            flags[_number(group, r"Inode bitmap at (\d+)")] = True
        unused = _number(group, r"(\d+) unused inodes", 0) * inode // size
        last = _number(group, r"Inode table at \d+-(\d+)")
        flags[last + 1 - unused : last + 1] = True
    return flags


def _data_blocks(
    image: pathlib.Path, files: Iterable[str], count: int
) -> npt.NDArray[np.bool_]:
    """Return the data blocks of files, without their block maps."""
    script = image.with_suffix(".debugfs")
    script.write_text("".join(f'stat "{path}"\n' for path in files))
    flags = np.zeros(count, dtype=np.bool_)
    text = run("debugfs", "-f", str(script), str(image))
    for line in re.findall(r"(?:EXTENTS|BLOCKS):\n(\(.*)", text):
        for first, last in _ranges(re.sub(r"\([A-Z]+\d*\):\d+,? ?", "", line)):
            flags[first : last + 1] = True
    return flags


def _ranges(text: str) -> list[tuple[int, int]]:
    """Parse ``(0-3):10-13, 20`` and the like."""
    text = re.sub(r"\([^)]*\):", "", text)
    pairs = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [(int(first), int(last or first)) for first, last in pairs]


def _number(text: str, pattern: str, default: int | None = None) -> int:
    """Find one number in a tool's output."""
    found = re.search(pattern, text)
    if found is None:
        assert default is not None, pattern
        return default
    return int(found.group(1))


def regular_files(root: pathlib.Path) -> list[str]:
    """Return the regular files below a directory as absolute paths in it."""
    return [
        f"/{path.relative_to(root)}"
        for path in every_path(root)
        if not path.is_symlink() and path.is_file()
    ]


def every_path(root: pathlib.Path) -> list[pathlib.Path]:
    """Return all that is below a directory, sorted.

    Python 3.11.2's ``rglob`` fails on a link to a name that is too long.
    """
    return sorted(
        root.joinpath(directory, name)
        for directory, folders, files in os.walk(root)
        for name in (*folders, *files)
    )


def zero_mapped(
    image: pathlib.Path, target: pathlib.Path, volume: VolumeMap
) -> bytearray:
    """Copy an image with every mapped extent overwritten; return its bytes."""
    data = bytearray(image.read_bytes())
    for extent in volume.extents:
        data[extent.offset : extent.end] = bytes(extent.length)
    target.write_bytes(data)
    return data
