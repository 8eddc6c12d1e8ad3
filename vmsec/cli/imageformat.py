"""Decide in which format an image is opened; never by its content alone.

A guest writes its own disk. One whose raw image begins with a qcow2 header
of the guest's making would, if the format were guessed from the content,
make the host follow a backing file of the guest's choosing (the reason why
QEMU warns about probing). So the content can only make vmsec ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import ImageIOError, UnsupportedFormatError

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("raw", "qcow2")
AUTO = "auto"

_MAGICS = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"QED\x00", "qed"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
)
"""First bytes of container formats. Source: QEMU block/*.c, bdrv_probe."""

_VDI_SIGNATURE = (0x40, b"\x7f\x10\xda\xbe")
_PROBE_BYTES = 512


def decide_format(path: Path, wanted: str) -> str:
    """Return the format to open an image with.

    Args:
        path: An image file or a block device.
        wanted: ``"raw"``, ``"qcow2"`` or ``"auto"``. Automatic is raw,
            unless the content looks like a container.

    Raises:
        UnsupportedFormatError: Automatic, and the content looks like a
            container: only the operator knows whether the host or the guest
            wrote that.
        ImageIOError: The image cannot be read.
    """
    if wanted != AUTO:
        return wanted
    seen = _looks_like(_first_bytes(path))
    if seen is None:
        return "raw"
    hint = (
        "if the host made it so, say --format qcow2; "
        if seen == "qcow2"
        else f"convert a {seen} image with qemu-img first; "
    )
    raise UnsupportedFormatError(
        f"{path}: the content looks like {seen}, which a guest can forge on "
        f"a raw disk: {hint}if it is a raw disk, say --format raw"
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_PROBE_BYTES)
    except OSError as err:
        raise ImageIOError("open", str(path), err.strerror or "?") from err


def _looks_like(head: bytes) -> str | None:
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    offset, signature = _VDI_SIGNATURE
    if head[offset : offset + len(signature)] == signature:
        return "vdi"
    return None
