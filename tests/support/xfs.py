"""Real XFS images, and what xfsprogs says about them.

The oracle shares no code with ``vmsec.ondisk.xfs``: ``xfs_db`` says which
blocks are free and which hold the data of regular files. What is neither must
be in the map; what is either must not. Knows no pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.support import ext

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable

    import numpy.typing as npt

    from vmsec.ondisk.extent import VolumeMap

MIB = 1 << 20
TOOLS = ("mkfs.xfs", "xfs_db", "xfs_repair")
SMALL = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
"""Makes mkfs.xfs accept less than 300 MB, as its own tests do."""

_TIMEOUT = 120
_EXTENT = re.compile(r"startblock \d+ \((\d+)/(\d+)\) count (\d+)")


def run(*command: str, ok: tuple[int, ...] = (0,), stdin: str = "") -> str:
    """Run a tool of xfsprogs; return its standard output."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        check=False,
        env={**os.environ, **SMALL, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode in ok, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def make_image(
    path: pathlib.Path,
    *options: str,
    tree: pathlib.Path | None = None,
    mib: int = 128,
) -> pathlib.Path:
    """Make an image with mkfs.xfs, filled from a directory if there is one."""
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    fill: list[str] = []
    if tree is not None:
        prototype = path.with_suffix(".proto")
        prototype.write_text("/dev/null\n0 0\n" + _prototype(tree))
        fill = ["-p", str(prototype)]
    run("mkfs.xfs", "-q", "-f", *fill, *options, str(path))
    return path


def _prototype(directory: pathlib.Path) -> str:
    """Describe a directory in the language of mkfs.xfs -p."""
    lines = ["d--755 0 0"]
    for path in sorted(directory.iterdir()):
        if path.is_symlink():
            lines.append(f"{path.name} l--777 0 0 {path.readlink()}")
        elif path.is_dir():
            lines.append(f"{path.name} {_prototype(path)}".rstrip())
        else:
            lines.append(f"{path.name} ---644 0 0 {path}")
    return "\n".join([*lines, "$", ""])


def plain_tree(root: pathlib.Path) -> pathlib.Path:
    """Fill a directory with what mkfs.xfs -p can copy."""
    many = root / f"{ext.NAME}-many"
    many.mkdir(parents=True)
    for number in range(1500):
        name = f"{ext.NAME}-{ext.UNICODE_NAME}-{number:05}"
        (many / name).write_bytes(ext.BODY_MARK)
    deep = root
    for level in range(12):
        deep /= f"{ext.NAME}-{level}"
    deep.mkdir(parents=True)
    (deep / f"{ext.NAME}-leaf").write_bytes(ext.BODY_MARK)
    (root / f"{ext.NAME}-body").write_bytes(ext.body())
    for length in (20, 300, 1010):
        target = f"{ext.TARGET}-{length}-".ljust(length, "x")
        (root / f"{ext.NAME}-link-{length}").symlink_to(target)
    return root


def fragment(root: pathlib.Path, *, rounds: int) -> None:
    """Make directories, attributes and files in many pieces, side by side.

    Long enough, they have extent trees of two levels.
    """
    sides = [root / f"{ext.NAME}-side-{side}" for side in "ab"]
    files = [root / f"{ext.NAME}-file-{side}" for side in "ab"]
    for side in sides:
        side.mkdir()
    for file in files:
        file.touch()
    for number in range(rounds):
        for side in sides:
            for part in range(12):
                name = f"{ext.NAME}-{ext.UNICODE_NAME}-{number:04}-{part:02}"
                (side / name.ljust(150, "n")).touch()
        for file in files:
            with file.open("ab") as body:
                body.write((ext.BODY_MARK * 150)[:4096])
                os.fsync(body.fileno())
            if number < 40:
                value = (ext.ATTRIBUTE * 1400)[:17000]
                os.setxattr(file, f"user.long-{number}", value)


@dataclass(frozen=True)
class Truth:
    """What xfs_db says; every array has one flag per block."""

    block_bytes: int
    free: npt.NDArray[np.bool_]
    data: npt.NDArray[np.bool_]
    kept: int
    """Blocks of the free lists, which xfs_db counts among the free ones."""

    def mapped(self, volume: VolumeMap) -> npt.NDArray[np.bool_]:
        """Return which blocks a map touches."""
        flags = np.zeros(len(self.free), dtype=np.bool_)
        for extent in volume.extents:
            first = extent.offset // self.block_bytes
            flags[first : -(-extent.end // self.block_bytes)] = True
        return flags


def read_truth(image: pathlib.Path, files: Iterable[str]) -> Truth:
    """Ask xfs_db about an image.

    Args:
        image: The volume, cleanly unmounted.
        files: Paths of its regular files inside the volume.
    """
    fields = run("xfs_db", "-r", "-c", "sb 0", "-c", "p", str(image))
    sb = dict(re.findall(r"^(\w+) = (\S+)$", fields, re.MULTILINE))
    count, group = int(sb["dblocks"]), int(sb["agblocks"])
    free = np.zeros(count, dtype=np.bool_)
    for line in run("xfs_db", "-r", "-c", "freesp -d", str(image)).split("\n"):
        found = re.fullmatch(r"\s+(\d+)\s+(\d+)\s+(\d+)", line)
        if found:
            number, start, length = map(int, found.groups())
            free[number * group + start :][:length] = True
    groups = [
        word
        for number in range(int(sb["agcount"]))
        for word in ("-c", f"agf {number}", "-c", "p flcount")
    ]
    lists = run("xfs_db", "-r", *groups, str(image))
    kept = sum(map(int, re.findall(r"flcount = (\d+)", lists)))
    data = np.zeros(count, dtype=np.bool_)
    script = "".join(f"path {path}\nbmap -d\n" for path in files)
    text = run("xfs_db", "-r", str(image), stdin=script)
    assert "No such file" not in text
    for extent in _EXTENT.findall(text):
        number, start, length = map(int, extent)
        data[number * group + start :][:length] = True
    return Truth(int(sb["blocksize"]), free, data, kept)


def data_files(root: pathlib.Path) -> list[str]:
    """Return the regular files with content below a directory."""
    return [
        f"/{path.relative_to(root)}"
        for path in ext.every_path(root)
        if not path.is_symlink() and path.is_file() and path.stat().st_blocks
    ]


def check(truth: Truth, volume: VolumeMap) -> None:
    """Every block is free, the data of a file, or mapped; never two."""
    mapped = truth.mapped(volume)
    assert not (mapped & truth.data).any()
    assert (mapped & truth.free).sum() == truth.kept
    assert (mapped | truth.data | truth.free).all()
