"""Boot an image in a QEMU of its own and read what its console shows.

Used by the tests, the quickstart and the benchmarks; knows no pytest.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from typing import Literal

FIRMWARE = pathlib.Path("/usr/share/OVMF")
READ_BYTES = 65536


def boot_in_qemu(
    image: pathlib.Path,
    *,
    until: bytes = b"VMSEC-BOOT-MARKER",
    timeout: float = 120,
    kind: Literal["mbr", "uefi"] = "mbr",
    image_format: str = "raw",
    snapshot: bool = False,
) -> bytes:
    """Boot an image under TCG until its console shows something.

    The machine has no graphics, so SeaBIOS sends what boot code prints
    through INT 10h to the serial port too.

    Args:
        image: The disk; the guest writes to it unless ``snapshot``.
        until: Stop when a whole line holding these bytes has been seen.
        timeout: Give up after so many seconds.
        kind: ``mbr`` for SeaBIOS, ``uefi`` for OVMF.
        image_format: QEMU's name for the format of the image.
        snapshot: Throw away what the guest writes.

    Returns:
        Everything that the console showed, with or without ``until``:
        the caller looks.
    """
    with contextlib.ExitStack() as stack:
        firmware = _firmware(stack) if kind == "uefi" else _bios()
        drive = f"file={image},format={image_format},if=virtio"
        command = [
            "qemu-system-x86_64", *firmware, "-accel", "tcg", "-m", "256",
            "-nodefaults", "-display", "none", "-no-reboot",
            "-drive", drive + (",snapshot=on" if snapshot else ""),
            "-serial", "stdio",
        ]  # fmt: skip
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        return _read_until(process.stdout.fileno(), until, timeout)


def _bios() -> list[str]:
    """SeaBIOS, with its console on the serial port."""
    return ["-machine", "pc,graphics=off"]


def _firmware(stack: contextlib.ExitStack) -> list[str]:
    """OVMF with fresh variables."""
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    variables = shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", directory)
    code = FIRMWARE / "OVMF_CODE_4M.fd"
    return [
        "-machine", "q35",
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
    ]  # fmt: skip


def _read_until(descriptor: int, until: bytes, timeout: float) -> bytes:
    """Collect the console until a line with ``until`` is complete."""
    console = b""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        piece = os.read(descriptor, READ_BYTES)
        if not piece:
            break
        console += piece
        found = console.find(until)
        if found >= 0 and console.find(b"\n", found) >= 0:
            break
    return console
