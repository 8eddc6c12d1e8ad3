"""The map of physical volumes that LVM2's own tools made on a loop device.

The oracle for where volumes lie is LVM2 (``lvs -o seg_pe_ranges``); an
attacker looks at a disk whose mapped extents are zero.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.ext import BODY_MARK, FileSource, make_image
from tests.support.images import Store, digest, seal, unseal
from tests.support.loop import loop_device
from tests.support.lvm_volume import MIB, RealLVM, place
from tests.support.tools import require_root, require_tool
from vmsec.ondisk.ext import map_ext
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.layout import read_layout, volume_extents
from vmsec.ondisk.lvm import is_lvm
from vmsec.ondisk.probe import Status, probe_volume

if TYPE_CHECKING:
    import pathlib

    from vmsec.ondisk.extent import VolumeMap

GROUP = "vmsecgroup"
NAME = b"vmsecname"
Runs = dict[str, list[tuple[int, int]]]


@dataclass
class Disk:
    """A filled physical volume."""

    path: pathlib.Path
    runs: Runs
    contents: dict[str, pathlib.Path]

    def map(self) -> VolumeMap:
        found = probe_volume(FileSource(self.path))
        assert found.status is Status.FILESYSTEM
        assert found.content is not None
        return found.content

    def zeroed(self) -> bytes:
        data = bytearray(self.path.read_bytes())
        for offset, length, _ in self.map().extents:
            data[offset : offset + length] = bytes(length)
        return bytes(data)


def tree(directory: pathlib.Path) -> pathlib.Path:
    """A hundred directories and files with known names and bodies."""
    root = directory / "tree"
    for number in range(100):
        below = root / f"vmsecname-{number}"
        below.mkdir(parents=True)
        (below / f"vmsecname-file-{number}").write_bytes(BODY_MARK * 200)
    return root


def swap(path: pathlib.Path, size: int) -> pathlib.Path:
    path.write_bytes(bytes(size))
    subprocess.run(
        ["mkswap", "-q", "-L", "vmsecname", path], check=True, timeout=60
    )
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Group of: ext4 in two runs, swap, noise, LUKS, nothing."""
    require_root()
    require_tool("losetup", "pvcreate", "vgcreate", "lvcreate", "mke2fs")
    require_tool("mkswap")
    directory = tmp_path_factory.mktemp("lvm")
    path = directory / "disk.img"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    with loop_device(path) as device:
        lvm = RealLVM(device)
        lvm.make(GROUP)
        for name, size in (("root", "48m"), ("swap", "16m"),
                           ("noise", "24m"), ("safe", "16m"),
                           ("empty", "16m")):  # fmt: skip
            lvm.add(GROUP, name, size)
        lvm.run("lvextend", "-L", "80m", f"{GROUP}/root")
        runs = lvm.runs(GROUP)
    contents = {
        "root": make_image(
            directory / "root", "-t", "ext4", tree=tree(directory), mib=80
        ),
        "swap": swap(directory / "swap", 16 * MIB),
        "noise": directory / "noise",
        "safe": directory / "safe",
    }
    contents["noise"].write_bytes(b"noise" * (24 * MIB // 5))
    contents["safe"].write_bytes(b"LUKS\xba\xbe" + b"cipher" * 100_000)
    for name, content in contents.items():
        place(path, runs[name], content.read_bytes())
    return Disk(path, runs, contents)


def on_disk(disk: Disk, name: str, offset: int) -> int:
    """Where a byte of a logical volume lies, as LVM2 says."""
    for start, length in disk.runs[name]:
        if offset < length:
            return start + offset
        offset -= length
    raise AssertionError(name)


def covered(found: VolumeMap, offset: int) -> bool:
    return any(e.offset <= offset < e.end for e in found.extents)


def test_the_fixture_lies_in_several_runs(disk: Disk) -> None:
    assert len(disk.runs["root"]) == 2
    assert is_lvm(FileSource(disk.path))
    assert disk.map().filesystem == "LVM2(ext4,swap)"


def test_metadata_of_volumes_is_mapped_where_lvm_put_it(disk: Disk) -> None:
    found = disk.map()
    alone = map_ext(FileSource(disk.contents["root"]))
    for extent in alone.extents:
        for at in (extent.offset, extent.end - 1):
            assert covered(found, on_disk(disk, "root", at))
    assert covered(found, on_disk(disk, "swap", 4095))
    assert not covered(found, on_disk(disk, "swap", 4096))


def test_an_encrypted_volume_is_not_touched(disk: Disk) -> None:
    ((start, length),) = disk.runs["safe"]
    assert not any(
        e.offset < start + length and start < e.end for e in disk.map().extents
    )


def test_an_unknown_volume_falls_under_the_fallback_rule(disk: Disk) -> None:
    fallback = [
        (e.offset, e.length)
        for e in disk.map().extents
        if e.kind is MetadataClass.FALLBACK
    ]
    wanted = []
    # Zeros are unknown too, unless they are few; they are skipped later.
    for name in ("noise", "empty"):
        ((start, length),) = disk.runs[name]
        wanted += [(start, 4 * MIB), (start + length - 4 * MIB, 4 * MIB)]
    assert fallback == wanted


def test_without_the_mapped_extents_no_name_is_left(disk: Disk) -> None:
    before, after = disk.path.read_bytes(), disk.zeroed()
    for name in (NAME, GROUP.encode(), b"LVM2 x[5A%r0N*>", b"LABELONE"):
        assert name in before
        assert name not in after


def test_without_the_mapped_extents_every_body_stays(disk: Disk) -> None:
    after = disk.zeroed()
    assert after.count(BODY_MARK * 200) == 100
    assert b"LUKS\xba\xbe" + b"cipher" * 100_000 in after


def test_without_the_mapped_extents_lvm_finds_nothing(
    disk: Disk, tmp_path: pathlib.Path
) -> None:
    sealed = tmp_path / "sealed.img"
    sealed.write_bytes(disk.zeroed())
    with loop_device(sealed) as device:
        lvm = RealLVM(device)
        assert GROUP not in lvm.run("pvs", check=False)
        assert GROUP not in lvm.run("pvck", "--dump", "metadata_search",
                                    device, check=False)  # fmt: skip
    assert not is_lvm(FileSource(sealed))


def test_sealed_and_unsealed_is_byte_identical_and_whole_for_lvm(
    disk: Disk, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB) + disk.path.read_bytes() + bytes(MIB))
    subprocess.run(
        ["sfdisk", "-q", path], input="start=2048, size=524288, type=8e\n",
        text=True, check=True, timeout=60,
    )  # fmt: skip
    (part,) = read_layout(FileSource(path)).partitions
    assert (part.offset, part.length) == (MIB, 256 * MIB)
    mapped = sum(
        e.length for e in volume_extents(read_layout(FileSource(path)))
    )
    before, store = digest(path), Store()
    report = seal(path, store)
    assert NAME not in path.read_bytes()
    assert 0 < report.sealed_bytes <= mapped + MIB
    unseal(path, store)
    assert digest(path) == before


def test_lvm_reads_its_metadata_back_after_a_change_of_many_texts(
    tmp_path: pathlib.Path,
) -> None:
    """The ring goes round: the newest text is found at every change."""
    require_root()
    require_tool("losetup", "pvcreate", "vgcreate", "lvcreate")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    with loop_device(path) as device:
        lvm = RealLVM(device)
        lvm.run("pvcreate", "-y", "-ff", "--metadatasize", "32k",
                "--dataalignment", "64k", device)  # fmt: skip
        lvm.run("vgcreate", "-s", "64k", GROUP, device)
        for number in range(30):
            lvm.add(GROUP, f"volume{number}", "64k")
            found = probe_volume(FileSource(path))
            assert found.content is not None
            assert found.content.notes[-1].startswith(f"volume{number}:")
            assert len(found.content.notes) == number + 1
