"""A volume mounted by the kernel through a loop device; needs root."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

_TIMEOUT = 60
_TRIES = 6


@contextlib.contextmanager
def mounted(
    image: pathlib.Path, where: pathlib.Path, options: str = "noatime"
) -> Iterator[pathlib.Path]:
    """Mount an image; unmount it afterwards, also after a failure."""
    where.mkdir(exist_ok=True)
    _mount("-o", f"loop,{options}", str(image), str(where))
    try:
        yield where
    finally:
        _run("umount", str(where))


@contextlib.contextmanager
def loop_device(image: pathlib.Path) -> Iterator[str]:
    """Attach an image to a loop device; detach it afterwards."""
    device = _run("losetup", "-f", "--show", str(image)).strip()
    try:
        yield device
    finally:
        _run("losetup", "-d", device)


def _mount(*arguments: str) -> None:
    """Mount; another test may have taken the loop device just before us."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("mount", *arguments)
            return
        time.sleep(0.3)
    _run("mount", *arguments)


def can_mount(image: pathlib.Path, where: pathlib.Path) -> bool:
    """Whether this machine lets us mount the image at all."""
    try:
        with mounted(image, where):
            return True
    except subprocess.CalledProcessError:
        return False


def _run(*command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    ).stdout
