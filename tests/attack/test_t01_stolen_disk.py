"""T01: a copy of a sealed disk is booted, mounted, listed, repaired, carved.

Each tool first proves on the plain disk that it would find the names.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.cli import vmsec_json
from tests.support.disk import build_bootable_disk, copy_sparse
from tests.support.images import IMAGES, NAMES, run
from tests.support.libvirt import Domain, PrivateLibvirt, make_domain
from tests.support.qemu import boot_in_qemu
from tests.support.tools import require_root, require_tool
from vmsec.ondisk.layout import read_layout
from vmsec.sealing.image import open_device
from vmsec.sealing.model import ImageRef

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

TOOLS = (
    "fls", "debugfs", "testdisk", "tsk_recover", "e2fsck", "mke2fs",
    "ntfsfix", "ntfsls", "sfdisk", "mkntfs", "mkfs.vfat", "mcopy", "mount",
)  # fmt: skip
NAME = re.compile(rb"zebra-\d{3}-quokka\.txt")
UTF16_NAME = re.compile(rb"z\0e\0b\0r\0a\0-\0(?:\d\0){3}-\0q\0u\0o\0k\0k\0a\0")
STUB = b"sealed by vmsec"
SECONDS = 120


class Stolen(NamedTuple):
    """A sealed copy, the plain disk, and where its partitions begin."""

    plain: pathlib.Path
    sealed: pathlib.Path
    offsets: tuple[int, ...]


def output(*command: object, cwd: pathlib.Path | None = None) -> bytes:
    """Run a tool that may fail; all that it says."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout


@pytest.fixture(
    scope="module", params=["mbr-ext4", "gpt-esp-ext4", "mbr-ntfs"]
)
def stolen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Stolen:
    require_tool(*TOOLS)
    require_root()
    directory = tmp_path_factory.mktemp("stolen")
    plain = IMAGES[request.param](directory / "plain.img")
    sealed = copy_sparse(plain, directory / "sealed.img")
    key = directory / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    report = vmsec_json("image", "seal", sealed, "--key-file", key)
    assert report["state"] == "sealed"
    with open_device(ImageRef(plain), writable=False) as device:
        layout = read_layout(device)
    offsets = tuple(part.offset for part in layout.partitions)
    return Stolen(plain, sealed, offsets)


def names_by_fls(image: pathlib.Path, offsets: tuple[int, ...]) -> set[bytes]:
    text = output("fls", "-r", "-p", image)
    for offset in offsets:
        text += output("fls", "-r", "-p", "-o", offset // 512, image)
    return set(NAME.findall(text))


def names_by_file_system_tools(
    image: pathlib.Path, offsets: tuple[int, ...]
) -> set[bytes]:
    """debugfs (by three superblocks) and ntfsls, each on a cut-out volume."""
    text = b""
    for offset in offsets:
        volume = image.with_suffix(f".{offset}")
        with volume.open("wb") as file:
            file.write(image.read_bytes()[offset:])
        for place in ((), ("-b", "4096", "-s", "32768")):
            text += output("debugfs", *place, "-R", "ls -p /", volume)
            text += output(
                "debugfs", *place, "-R", "ls -p /okapi-directory", volume
            )
        text += output("debugfs", "-c", "-R", "ls -p /", volume)
        for folder in ("/", "/tree", "/tree/okapi-directory"):
            text += output("ntfsls", "-f", "-p", folder, volume)
        volume.unlink()
    return set(NAME.findall(text))


def names_by_mount(
    image: pathlib.Path, offsets: tuple[int, ...]
) -> set[bytes]:
    where = image.parent / "mnt"
    where.mkdir(exist_ok=True)
    found = b""
    for offset in offsets:
        options = f"ro,loop,offset={offset}"
        if output("mount", "-o", options, image, where) == b"":
            found += output("find", where)
            run("umount", where)
    return set(NAME.findall(found))


def names_in_all_bytes(
    image: pathlib.Path, _offsets: tuple[int, ...]
) -> set[bytes]:
    data = image.read_bytes()
    return set(NAME.findall(data)) | {
        name.replace(b"\0", b"") for name in UTF16_NAME.findall(data)
    }


LISTERS: dict[str, Callable[[pathlib.Path, tuple[int, ...]], set[bytes]]] = {
    "fls": names_by_fls,
    "debugfs, ntfsls": names_by_file_system_tools,
    "mount": names_by_mount,
    "every byte": names_in_all_bytes,
}


@pytest.mark.parametrize("lister", LISTERS)
def test_no_tool_brings_back_a_file_name(stolen: Stolen, lister: str) -> None:
    before = LISTERS[lister](stolen.plain, stolen.offsets)
    assert before, "the tool is no good on the plain disk either"
    assert LISTERS[lister](stolen.sealed, stolen.offsets) == set()


def test_all_names_are_in_the_plain_disk(stolen: Stolen) -> None:
    assert len(names_by_fls(stolen.plain, stolen.offsets)) == len(NAMES)


def test_testdisk_finds_no_file_system(
    stolen: Stolen, tmp_path: pathlib.Path
) -> None:
    def systems(image: pathlib.Path) -> int:
        steps = "partition_none,analyze,list"
        output("testdisk", "/log", "/cmd", image, steps, cwd=tmp_path)
        for kind in ("i386", "gpt"):
            steps = f"partition_{kind},analyze,search,list"
            output("testdisk", "/log", "/cmd", image, steps, cwd=tmp_path)
        text = (tmp_path / "testdisk.log").read_text(errors="replace")
        (tmp_path / "testdisk.log").unlink()
        return sum("blocksize" in line for line in text.splitlines())

    assert systems(stolen.plain)
    assert not systems(stolen.sealed)


def test_tsk_recover_brings_back_nothing(
    stolen: Stolen, tmp_path: pathlib.Path
) -> None:
    def recovered(image: pathlib.Path, target: pathlib.Path) -> int:
        target.mkdir()
        for offset in stolen.offsets:
            output("tsk_recover", "-e", "-o", offset // 512, image, target)
        return sum(path.is_file() for path in target.rglob("*"))

    assert recovered(stolen.plain, tmp_path / "plain")
    assert not recovered(stolen.sealed, tmp_path / "sealed")


def test_repair_tools_repair_nothing(
    stolen: Stolen, tmp_path: pathlib.Path
) -> None:
    """Also the last resort: new superblocks over the old, then a check."""
    for offset in stolen.offsets:
        volume = tmp_path / "volume"
        data = stolen.sealed.read_bytes()[offset:]
        for repair in (
            ("e2fsck", "-fy"),
            ("e2fsck", "-fy", "-b", "32768", "-B", "4096"),
            ("ntfsfix",),
        ):
            volume.write_bytes(data)
            output(*repair, volume)
            assert not names_by_file_system_tools(volume, (0,)), repair
        volume.write_bytes(data)
        output("mke2fs", "-F", "-S", "-t", "ext4", "-b", "4096", volume)
        output("e2fsck", "-fy", volume)
        assert not names_by_file_system_tools(volume, (0,))
        assert not set(NAME.findall(output("debugfs", "-R", "lsdel", volume)))


def _seal_bootable(directory: pathlib.Path, kind: str) -> pathlib.Path:
    """Build and seal a disk that would boot."""
    image = build_bootable_disk(
        directory / "disk.img", kind="uefi" if kind == "uefi" else "mbr"
    )
    key = directory / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(32))
    vmsec_json("image", "seal", image, "--key-file", key)
    return image


def test_a_copy_started_by_libvirt_under_another_uuid_shows_the_stub(
    private_libvirt: PrivateLibvirt, tmp_path: pathlib.Path
) -> None:
    """The thief's own cloud has no vmsec: the start itself succeeds."""
    require_tool("grub-mkimage", "qemu-system-x86_64")
    image = _seal_bootable(tmp_path, "mbr")
    domain = make_domain("thief", image)
    private_libvirt.define(domain)
    try:
        private_libvirt.start(domain.name)
        assert STUB in _console_until_stub(domain)
    finally:
        private_libvirt.virsh("destroy", domain.name)
        private_libvirt.virsh("undefine", domain.name)
    assert b"VMSEC-BOOT-MARKER" not in domain.read_console()


def _console_until_stub(domain: Domain) -> bytes:
    """Follow the guest's console until it halts in the stub."""
    command = ["timeout", "60", "tail", "-n", "+1", "-F", str(domain.console)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        seen = b""
        for line in follower.stdout:
            seen += line
            if STUB in seen:
                break
        follower.kill()
    return seen


def test_uefi_firmware_finds_nothing_to_boot(tmp_path: pathlib.Path) -> None:
    require_tool("grub-mkimage", "qemu-system-x86_64")
    image = _seal_bootable(tmp_path, "uefi")
    console = boot_in_qemu(image, kind="uefi", timeout=30, until=b"BOOT-MARK")
    assert b"VMSEC-BOOT-MARKER" not in console
    assert b"GRUB" not in console
    assert console, "the firmware itself did start"
