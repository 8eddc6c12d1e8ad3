"""The map of XFS volumes that were cut off in the middle of much work.

The kernel itself cuts (xfs_io shutdown), with and without a last write of its
log, and then says by a mount what recovery makes of it.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import ext, xfs
from tests.support.loop import can_mount, mounted
from tests.support.tools import missing, require_root, require_tool
from vmsec.ondisk.xfs import map_xfs

if TYPE_CHECKING:
    import pathlib

SECONDS = 3
VARIANTS = {
    "default": (),
    "1k-small-log": ("-b", "size=1024", "-l", "size=16m"),
    "all-trees": ("-m", "rmapbt=1,reflink=1", "-n", "size=16384"),
    "large-counts": ("-i", "size=1024,nrext64=1", "-s", "size=4096"),
    "striped-log": ("-l", "su=256k,size=32m"),
}


class Worker:
    """Makes, fills, renames and removes files of all kinds at random."""

    def __init__(self, root: pathlib.Path, seed: int) -> None:
        self._choice = random.Random(seed)
        self._directories, self._files = [root], [root / f"{ext.NAME}-0"]
        self._files[0].touch()
        self._count = 0

    def work(self) -> None:
        """Do one thing; some more often than others."""
        self._count += 1
        acts = [self._make, self._remove, self._rename, self._attribute]
        acts += [self._link, self._directory, self._prune]
        self._choice.choices(acts, [50, 15, 5, 5, 5, 5, 1])[0]()

    def _new(self, kind: str) -> pathlib.Path:
        parent = self._choice.choice(self._directories[-30:])
        padding = "n" * self._choice.randrange(100)
        return parent / f"{ext.NAME}-{kind}-{self._count}-{padding}"

    def _take(self) -> pathlib.Path:
        at = self._choice.randrange(len(self._files))
        return self._files.pop(at) if at else self._files[0]

    def _make(self) -> None:
        path = self._new("file")
        size = max(self._choice.randrange(-40000, 20000), 0)
        path.write_bytes(b"+" * size)
        self._files.append(path)

    def _remove(self) -> None:
        path = self._take()
        if path is not self._files[0]:
            path.unlink()

    def _rename(self) -> None:
        path = self._take()
        if path is not self._files[0]:
            self._files.append(path.rename(self._new("renamed")))

    def _attribute(self) -> None:
        value = ext.ATTRIBUTE * self._choice.randrange(1, 1500)
        os.setxattr(self._choice.choice(self._files), "user.a", value)

    def _link(self) -> None:
        target = ext.TARGET * self._choice.randrange(1, 90)
        self._new("link").symlink_to(target)

    def _directory(self) -> None:
        self._directories.append(self._new("directory"))
        self._directories[-1].mkdir()

    def _prune(self) -> None:
        if len(self._directories) > 10:
            gone = self._choice.choice(self._directories[5:])
            shutil.rmtree(gone)
            self._directories, self._files = (
                [path for path in paths if not path.is_relative_to(gone)]
                for paths in (self._directories, self._files)
            )


@pytest.mark.parametrize("flush", [(), ("-f",)], ids=["lost", "flushed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_map_of_a_volume_cut_off_at_work_is_that_after_recovery(
    variant: str, flush: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    require_root()
    require_tool(*xfs.TOOLS, "xfs_io", "mount", "cp")
    image = xfs.make_image(tmp_path / "i", *VARIANTS[variant], mib=192)
    if not can_mount(image, tmp_path / "m"):
        missing("loop", "cannot mount an XFS image")
    with mounted(image, tmp_path / "m") as root:
        worker, end = Worker(root, len(variant)), time.monotonic() + SECONDS
        while time.monotonic() < end:
            worker.work()
        command = " ".join(("shutdown", *flush))
        xfs.run("xfs_io", "-x", "-c", command, str(root))
    repaired = tmp_path / "repaired"
    xfs.run("cp", "--sparse=always", str(image), str(repaired))
    with mounted(repaired, tmp_path / "m") as root:
        files = xfs.data_files(root)
    truth = xfs.read_truth(repaired, files)
    xfs.check(truth, map_xfs(ext.FileSource(repaired)))

    volume = map_xfs(ext.FileSource(image))
    assert "taken into account" in volume.notes[1]
    # Recovery removes files that were deleted while open; it adds nothing.
    mapped = truth.mapped(volume)
    assert not (mapped & truth.data).any()
    metadata = ~truth.free & ~truth.data
    assert not (metadata & ~mapped).any()
    rest = ext.zero_mapped(image, tmp_path / "rest", volume)
    size = truth.block_bytes
    for block in np.flatnonzero(truth.free).tolist():
        rest[block * size : (block + 1) * size] = bytes(size)
    assert not any(marker in rest for marker in ext.MARKERS)
