"""The disks and daemons that other tests stand on do what they say."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

from tests.support.disk import (
    ROOT,
    allocated_bytes,
    build_bootable_disk,
    read_markers,
)
from tests.support.libvirt import PrivateLibvirt, make_domain, wait_for_boot
from tests.support.qemu import boot_in_qemu
from tests.support.tools import require_root, require_tool

KILLED_PARENT = """
import os, signal, sys
from tests.support.libvirt import PrivateLibvirt
with PrivateLibvirt() as libvirt:
    print(libvirt.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_mbr_disk_boots_and_counts_on_the_disk(
    bootable_disk: pathlib.Path,
) -> None:
    require_tool("qemu-system-x86_64")
    first = read_markers(boot_in_qemu(bootable_disk))
    second = read_markers(boot_in_qemu(bootable_disk))
    assert [first[0].boot, second[0].boot] == [1, 2]
    assert first[0].digest == second[0].digest
    assert first[0].root == "/dev/vda1"


def test_uefi_disk_boots(tmp_path: pathlib.Path) -> None:
    require_tool("qemu-system-x86_64", "mkfs.vfat", "mcopy")
    image = build_bootable_disk(tmp_path / "uefi.img", kind="uefi")
    console = boot_in_qemu(image, kind="uefi")
    assert read_markers(console)[0].root == "/dev/vda2"


def test_boot_code_without_an_operating_system_is_seen_on_the_console(
    tmp_path: pathlib.Path,
) -> None:
    """What a sealed disk's stub prints by INT 10h reaches the serial port."""
    require_tool("qemu-system-x86_64")
    # mov si, text; lodsb; mov ah, 0eh; int 10h; loop until zero; hlt
    code = bytes.fromhex("be107c31c08ed8ac84c07406b40ecd10ebf5f4ebfd")
    code = code.replace(b"\xbe\x10\x7c", b"\xbe\x40\x7c")
    sector = code.ljust(0x40, b"\0") + b"it prints\r\n\0"
    image = tmp_path / "stub.img"
    image.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    console = boot_in_qemu(image, until=b"it prints", timeout=30)
    assert b"it prints" in console


def test_built_disk_is_sparse(built_disk: pathlib.Path) -> None:
    assert allocated_bytes(built_disk) < built_disk.stat().st_size / 3


def test_guest_starts_under_private_libvirt_and_obeys_the_power_button(
    private_libvirt: PrivateLibvirt, bootable_disk: pathlib.Path
) -> None:
    domain = make_domain("lab-power", bootable_disk)
    private_libvirt.define(domain)
    try:
        private_libvirt.start(domain.name)
        assert wait_for_boot(domain, 1).boot == 1
        private_libvirt.shut_down(domain.name)
    finally:
        private_libvirt.virsh("undefine", domain.name)


def test_nothing_outlives_a_killed_parent() -> None:
    require_tool("libvirtd", "virsh", "unshare")
    require_root()
    result = subprocess.run(
        [sys.executable, "-c", KILLED_PARENT],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    directory = pathlib.Path(result.stdout.strip())
    assert (directory / "A").is_dir()
    deadline = time.monotonic() + 20
    while users := _processes_naming(str(directory)):
        assert time.monotonic() < deadline, users
        time.sleep(0.1)
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def _processes_naming(word: str) -> list[str]:
    """Command lines of all processes that name a path."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in line:
            found.append(line)
    return found
