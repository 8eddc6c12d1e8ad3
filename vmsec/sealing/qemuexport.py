"""Disks in QEMU's formats, through QEMU's own block layer.

``qemu-storage-daemon`` exports the guest-visible disk as a FUSE file; all
writes go to the image's top layer, and the container's own structures (header,
L1/L2, refcounts) are QEMU's alone. The daemon takes QEMU's image lock. It ends
with the thread that started it, so a killed vmsec leaves no export behind.

Source:
    qemu-storage-daemon(1); facts on formats in the operator's guide.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vmsec.errors import ConfigurationError, ImageBusyError, ImageIOError
from vmsec.sealing.container import require_self_contained
from vmsec.sealing.device import FileDevice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.sealing.model import ImageRef

_START_SECONDS = 30.0
_STOP_SECONDS = 60.0
_UNLESS_ORPHANED = 'test "$PPID" = "$0" && exec "$@"'
"""A parent that died before setpriv's request sends no signal any more."""


def _command(image: ImageRef, export: Path, *, writable: bool) -> list[str]:
    mode = "off" if writable else "on"
    share = {"force-share": True} if not writable else {}
    protocol = {
        "driver": "file",
        "node-name": "file0",
        "filename": str(image.path),
        "read-only": not writable,
        **share,
    }
    disk = {
        "driver": image.format,
        "node-name": "disk0",
        "file": "file0",
        "read-only": not writable,
        **share,
    }
    return [
        "setpriv",
        "--pdeathsig",
        "TERM",
        "sh",
        "-c",
        _UNLESS_ORPHANED,
        str(os.getpid()),
        "qemu-storage-daemon",
        "--blockdev",
        json.dumps(protocol),
        "--blockdev",
        json.dumps(disk),
        "--export",
        "type=fuse,id=export0,node-name=disk0,growable=off,allow-other=off,"
        f"mountpoint={export},writable={'on' if mode == 'off' else 'off'}",
    ]


@contextlib.contextmanager
def qemu_export(image: ImageRef, *, writable: bool) -> Iterator[FileDevice]:
    """Open the guest-visible disk of an image in one of QEMU's formats.

    Args:
        image: The image; its format is not ``raw``.
        writable: Whether it is going to be written; then the image lock is
            held until the end of the block.

    Raises:
        ConfigurationError: qemu-storage-daemon or FUSE is missing.
        ImageBusyError: QEMU or another process uses the image.
        ImageIOError: QEMU cannot open it, or could not flush it at the end.
        UnsupportedFormatError: It would have QEMU use other files (see
            :mod:`vmsec.sealing.container`).

    Crash:
        The daemon ends with its parent; what was synced is in the image.
    """
    require_self_contained(image)
    with tempfile.TemporaryDirectory(prefix="vmsec-") as directory:
        export, log = Path(directory, "disk"), Path(directory, "log")
        export.touch(0o600)
        with log.open("wb") as errors:
            daemon = _start(image, export, errors.fileno(), writable)
        try:
            _wait_ready(daemon, export, log, image)
            device = FileDevice(
                export, name=str(image.path), writable=writable
            )
            try:
                yield device
            finally:
                device.close()
        finally:
            _stop(daemon, export, log, image)


def _start(
    image: ImageRef,
    export: Path,
    errors: int,
    writable: bool,
) -> subprocess.Popen[bytes]:
    for program in ("qemu-storage-daemon", "setpriv"):
        if shutil.which(program) is None:
            raise ConfigurationError(
                f"{image.path}: {program} is not installed; {image.format} "
                "images need the packages qemu-utils and util-linux"
            )
    if not Path("/dev/fuse").exists():
        raise ConfigurationError(
            f"{image.path}: /dev/fuse is missing; load the kernel's fuse"
        )
    return subprocess.Popen(
        _command(image, export, writable=writable),
        stdin=subprocess.DEVNULL,
        stdout=errors,
        stderr=errors,
    )


def _wait_ready(
    daemon: subprocess.Popen[bytes], export: Path, log: Path, image: ImageRef
) -> None:
    """Wait until the mount point is the export (its device number changes)."""
    outside = export.parent.stat().st_dev
    end = time.monotonic() + _START_SECONDS
    while export.stat().st_dev == outside:
        if daemon.poll() is not None:
            raise _failure(image, log)
        if time.monotonic() > end:
            raise ImageIOError(
                "open", str(image.path), "qemu-storage-daemon does not start"
            )
        time.sleep(0.002)


def _failure(image: ImageRef, log: Path) -> ImageBusyError | ImageIOError:
    lines = log.read_text(errors="replace").strip().splitlines() or ["?"]
    text = lines[-1].split(": ", 1)[-1]
    # 'Failed to get "write" lock', and then a line that asks a question.
    if any(" lock" in line for line in lines):
        return ImageBusyError(
            f"{image.path}: in use by QEMU or another process; stop the VM "
            "or wait"
        )
    return ImageIOError("open", str(image.path), text)


def _stop(
    daemon: subprocess.Popen[bytes], export: Path, log: Path, image: ImageRef
) -> None:
    """End the export; QEMU flushes and closes the image."""
    daemon.terminate()
    try:
        status = daemon.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        status = daemon.wait()
    if os.path.ismount(export):
        subprocess.run(["umount", "-l", export], check=False)
    if status not in (0, -15, 143, 1):
        raise ImageIOError(
            "sync", str(image.path), log.read_text(errors="replace")[-200:]
        )
