"""The map of Btrfs volumes of btrfs-progs, and of the kernel's where it can.

The oracle for where chunks lie is ``btrfs inspect-internal dump-tree``; an
attacker looks at a volume whose mapped extents are zero.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.ext import BODY_MARK, FileSource
from tests.support.images import Store, digest, seal, unseal
from tests.support.loop import mounted
from tests.support.tools import missing, require_root, require_tool
from vmsec.ondisk.btrfs import is_btrfs, map_btrfs
from vmsec.ondisk.probe import Status, probe_volume

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

MIB = 1 << 20
VARIANTS = {
    "dup-crc32c": (),
    "single-xxhash": ("-m", "single", "--csum", "xxhash"),
    "sha256-small-nodes": ("--csum", "sha256", "-n", "4096"),
    "blake2-large-nodes": ("--csum", "blake2", "-n", "65536"),
    "mixed": ("-M",),
}
FILES = 400
BODY = BODY_MARK * 300
NAME = b"vmsecname"


def tool(*command: object, check: bool = True) -> str:
    done = subprocess.run(
        list(map(str, command)), text=True, check=False, capture_output=True,
        timeout=120, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


def fill(root: pathlib.Path) -> None:
    for number in range(FILES):
        below = root / f"vmsecname-{number // 10}"
        below.mkdir(parents=True, exist_ok=True)
        path = below / f"vmsecname-file-{number}"
        path.write_bytes(b"%03d" % number + BODY)
        (below / f"vmsecname-link-{number}").symlink_to("vmsecname-target")
        os.setxattr(path, "user.vmsecname", b"vmsecname value")


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

    def stripes(self) -> list[tuple[str, int, int]]:
        """Type, offset and length of each copy of each chunk."""
        text = tool("btrfs", "inspect-internal", "dump-tree", "-t", "chunk",
                    self.path)  # fmt: skip
        found = []
        for part in text.split("CHUNK_ITEM ")[1:]:
            kind = re.search(r"length (\d+) .*? type (\S+)", part, re.DOTALL)
            assert kind is not None
            found += [
                (kind[2], int(offset), int(kind[1]))
                for offset in re.findall(r"stripe \d+ devid 1 offset (\d+)",
                                         part)
            ]  # fmt: skip
        return found

    def mapped_bytes(self, offset: int, length: int) -> int:
        end = offset + length
        return sum(
            max(0, min(e.end, end) - max(e.offset, offset))
            for e in self.map.extents
        )


def make(path: pathlib.Path, *options: object) -> pathlib.Path:
    with path.open("wb") as file:
        file.truncate(300 * MIB)
    tool("mkfs.btrfs", "-q", "-L", "vmsecname", *options, path)
    return path


@pytest.fixture(scope="module", params=VARIANTS)
def volume(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Volume:
    require_tool("mkfs.btrfs", "btrfs")
    directory = tmp_path_factory.mktemp("btrfs")
    root = directory / "tree"
    fill(root)
    path = make(
        directory / "volume.img", *VARIANTS[request.param], "--rootdir", root
    )
    shutil.rmtree(root)
    source = FileSource(path)
    assert is_btrfs(source)
    return Volume(path, map_btrfs(source))


def test_chunks_of_trees_are_mapped_whole_and_of_data_not_at_all(
    volume: Volume,
) -> None:
    stripes = volume.stripes()
    assert len(stripes) >= 2
    for kind, offset, length in stripes:
        mapped = volume.mapped_bytes(offset, length)
        if kind.startswith("DATA") and "METADATA" not in kind:
            # A mirror of the superblock may lie in between.
            assert mapped <= 4096
        else:
            assert mapped == length


def test_without_the_mapped_extents_no_name_is_left(volume: Volume) -> None:
    assert volume.path.read_bytes().count(NAME) > 3 * FILES
    assert NAME not in volume.zeroed()


def test_without_the_mapped_extents_every_body_stays(volume: Volume) -> None:
    after = volume.zeroed()
    is_mixed = any("share chunks" in note for note in volume.map.notes)
    assert after.count(BODY) == (0 if is_mixed else FILES)


def test_without_the_mapped_extents_tools_find_nothing(
    volume: Volume, tmp_path: pathlib.Path
) -> None:
    require_tool("blkid")
    sealed = tmp_path / "sealed.img"
    sealed.write_bytes(volume.zeroed())
    target = tmp_path / "restored"
    target.mkdir()
    assert tool("blkid", "-p", sealed, check=False) == ""
    for command in (
        ("btrfs", "check", "--readonly"),
        ("btrfs", "rescue", "super-recover", "-y"),
        ("btrfs", "restore"),
        ("btrfs-find-root",),
    ):
        extra = (target,) if command[-1] == "restore" else ()
        with pytest.raises(AssertionError):
            tool(*command, sealed, *extra)
    assert list(target.iterdir()) == []
    assert not is_btrfs(FileSource(sealed))


def test_sealed_and_unsealed_is_byte_identical_and_sound(
    volume: Volume, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "disk.img"
    shutil.copyfile(volume.path, path)
    before, store = digest(path), Store()
    seal(path, store)
    assert NAME not in path.read_bytes()
    unseal(path, store)
    assert digest(path) == before
    tool("btrfs", "check", "--readonly", path)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Volume, Volume]:
    """A volume after a power cut, and the same one after its unmount."""
    require_root()
    require_tool("mkfs.btrfs", "btrfs", "mount")
    directory = tmp_path_factory.mktemp("kernel")
    path = make(directory / "volume.img")
    try:
        with mounted(path, directory / "mount") as root:
            use(root)
            os.sync()
            late = root / "vmsecname-late"
            late.write_bytes(b"small and inside the tree")
            with late.open("rb") as file:
                os.fsync(file.fileno())
            shutil.copyfile(path, directory / "cut.img")
    except subprocess.CalledProcessError:
        missing("btrfs", "the kernel does not mount Btrfs")
    cut, clean = directory / "cut.img", path
    return (
        Volume(cut, map_btrfs(FileSource(cut))),
        Volume(clean, map_btrfs(FileSource(clean))),
    )


def use(root: pathlib.Path) -> None:
    """Subvolumes, snapshots, compression, removal and a balance."""
    tool("btrfs", "subvolume", "create", root / "vmsecname-subvolume")
    fill(root / "vmsecname-subvolume")
    tool("btrfs", "subvolume", "snapshot", root / "vmsecname-subvolume",
         root / "vmsecname-snapshot")  # fmt: skip
    shutil.rmtree(root / "vmsecname-subvolume" / "vmsecname-3")
    tool("btrfs", "filesystem", "defragment", "-r", "-czstd",
         root / "vmsecname-snapshot")  # fmt: skip
    tool("btrfs", "quota", "enable", root)
    tool("btrfs", "filesystem", "sync", root)


def test_a_volume_in_use_is_mapped_with_its_log(
    running: tuple[Volume, Volume],
) -> None:
    cut, clean = running
    assert "did not unmount" in cut.map.notes[0]
    assert clean.map.notes == ()
    for volume in running:
        assert volume.path.read_bytes().count(NAME) > 3 * FILES
        assert NAME not in volume.zeroed()
        assert b"inside the tree" not in volume.zeroed()


def test_metadata_on_two_devices_makes_the_volume_unknown(
    tmp_path: pathlib.Path,
) -> None:
    require_tool("mkfs.btrfs")
    other = tmp_path / "other.img"
    with other.open("wb") as file:
        file.truncate(300 * MIB)
    path = make(tmp_path / "volume.img", "-m", "raid1", other)
    found = probe_volume(FileSource(path))
    assert found.status is Status.UNKNOWN
    assert found.note == "btrfs: one of 2 devices"
