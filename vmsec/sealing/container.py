"""What a container file may name besides itself, judged before QEMU opens it.

The header of a qcow2 or VMDK image can name other files, and QEMU opens them
with the rights of whoever runs it. vmsec runs as root: an image made by
somebody else could have it encrypt any disk of the host (an external data
file, a flat extent) or copy any file of the host into the image (a backing
file, unsealed into the overlay). So:

1. All that is written lies in the image file itself: no external data file,
   no VMDK of several extents.
2. A backing file is a local file or device, named with its format, and holds
   whole sectors like a disk. Every file of the chain is judged.

Source:
    QEMU docs/interop/qcow2.rst, block/vmdk.c; CVE-2024-32498 and
    CVE-2022-47951 (OpenStack images that name files of the host).
"""

from __future__ import annotations

import re
import stat
import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.sealing.device import storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from vmsec.sealing.model import ImageRef

MAX_CHAIN = 64
"""Backing files below one another; snapshots of the field have a few."""

_QCOW2 = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_QCOW2_V2_BYTES = 72
_EXTERNAL_DATA_FILE = 1 << 2
_MAX_NAME = 1023
_BACKING_FORMAT = 0xE2792ACA
_MAX_HEADER = 1 << 16
"""The header and its extensions lie in the first cluster."""
_PROTOCOL = re.compile(r"[A-Za-z0-9+.-]+:")
_MIN_BACKING_BYTES, _SECTOR = 64 << 10, 512

_VMDK4 = struct.Struct("<4sIIQQQQ")
_VMDK_COMPRESSED = 1 << 16
_MAX_DESCRIPTOR = 1 << 20


class Qcow2Header(NamedTuple):
    """What of a qcow2 header matters here.

    ``backing`` is the name of the backing file or empty, ``backing_format``
    its format or empty; ``snapshots`` counts the internal ones; ``l1`` is
    the place of the L1 table and its number of entries.
    """

    backing: str
    backing_format: str
    snapshots: int
    features: int
    cluster_bits: int
    l1: tuple[int, int]


def require_self_contained(image: ImageRef) -> None:
    """Refuse a container that would have QEMU write or read other files.

    Raises:
        CorruptImageError: Not a header of the format.
        ImageIOError: It, or a backing file, cannot be read.
        UnsupportedFormatError: As the rules above say.
    """
    if image.format == "vmdk":
        _judge_vmdk(image.path)
    path, kind = image.path, image.format
    for _ in range(MAX_CHAIN):
        if kind != "qcow2":
            return
        header = _judge_qcow2(path)
        if not header.backing:
            return
        path, kind = _judge_backing(path, header)
    raise UnsupportedFormatError(
        f"{image.path}: more than {MAX_CHAIN} backing files; flatten it with "
        "'qemu-img rebase'"
    )


def read_qcow2_header(path: Path) -> Qcow2Header:
    """Read a qcow2 header; every number in it is the image's claim.

    Raises:
        CorruptImageError: Not a qcow2 header.
        ImageIOError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_MAX_HEADER)
    except OSError as err:
        raise storage_error("open", str(path), err) from err
    if len(head) < _QCOW2.size or head[:4] != b"QFI\xfb":
        raise CorruptImageError(f"{path}: not a qcow2 image")
    fields = _QCOW2.unpack_from(head)
    version, place, size, snapshots = *fields[1:4], fields[11]
    features = fields[13] if version > 2 else 0
    length = fields[17] if version > 2 else _QCOW2_V2_BYTES
    if version not in (2, 3) or (place and not 0 < size <= _MAX_NAME):
        raise CorruptImageError(f"{path}: its qcow2 header is damaged")
    name = head[place : place + size] if place else b""
    if place and len(name) != size:
        raise CorruptImageError(f"{path}: its qcow2 header is damaged")
    return Qcow2Header(
        name.decode(errors="surrogateescape"),
        _backing_format(head, length),
        snapshots,
        features,
        fields[4],
        (fields[8], fields[7]),
    )


def _backing_format(head: bytes, place: int) -> str:
    """Return the backing file's format, or empty; one named twice is none."""
    found = []
    while place + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, place)
        if kind == _BACKING_FORMAT:
            found.append(head[place + 8 : place + 8 + size])
        if kind == 0:
            break
        place += 8 + size + -size % 8
    return found[0].decode(errors="replace") if len(found) == 1 else ""


def _judge_qcow2(path: Path) -> Qcow2Header:
    header = read_qcow2_header(path)
    if header.features & _EXTERNAL_DATA_FILE:
        raise UnsupportedFormatError(
            f"{path}: keeps its data in another file; convert it with "
            "'qemu-img convert'"
        )
    return header


def _judge_backing(path: Path, header: Qcow2Header) -> tuple[Path, str]:
    name, kind = header.backing, header.backing_format
    shown = name.encode(errors="backslashreplace").decode(errors="replace")
    if _PROTOCOL.match(name) or not name.isprintable():
        raise UnsupportedFormatError(
            f"{path}: its backing file {shown!a} is not a local file"
        )
    if kind not in ("raw", "qcow2"):
        raise UnsupportedFormatError(
            f"{path}: names its backing file {shown} with format "
            f"{kind!a}; set it with 'qemu-img rebase -u -F FORMAT'"
        )
    backing = path.parent / name
    _require_disk(backing, kind, path)
    return backing, kind


def _require_disk(backing: Path, kind: str, image: Path) -> None:
    """Check that a backing file could be a disk.

    Files that hold secrets of a host (passwords, keys) are shorter or no
    whole sectors.
    """
    try:
        status = backing.stat()
    except OSError as err:
        raise storage_error("open", str(backing), err) from err
    if stat.S_ISBLK(status.st_mode):
        return
    size = status.st_size
    whole = size >= _MIN_BACKING_BYTES and size % _SECTOR == 0
    whole = whole or kind != "raw"
    if not stat.S_ISREG(status.st_mode) or not whole:
        raise UnsupportedFormatError(
            f"{image}: its backing file {backing} is not a disk image"
        )


def _judge_vmdk(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            text = _vmdk_descriptor(stream)
    except OSError as err:
        raise storage_error("open", str(path), err) from err
    if text is None or b"parentFileNameHint" in text:
        raise UnsupportedFormatError(
            f"{path}: a VMDK image of several files or compressed; convert "
            "it with 'qemu-img convert'"
        )


def _vmdk_descriptor(stream: BinaryIO) -> bytes | None:
    """Return the descriptor of a sparse VMDK; None if it is another kind.

    A capacity of zero makes QEMU read extents from the descriptor; compressed
    grains it cannot overwrite.
    """
    head = stream.read(_SECTOR)
    if len(head) < _SECTOR or head[:4] != b"KDMV":
        return None
    _, _, flags, capacity, _, place, sectors = _VMDK4.unpack_from(head)
    if not capacity or flags & _VMDK_COMPRESSED:
        return None
    if place > 1 << 32 or sectors * _SECTOR > _MAX_DESCRIPTOR:
        return None
    stream.seek(place * _SECTOR)
    return stream.read(sectors * _SECTOR)
