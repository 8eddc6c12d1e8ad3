"""Whether what is sealed is overwritten in a container, or stays in it.

QEMU replaces a compressed cluster instead of overwriting it, and an internal
snapshot keeps the old one: every file name would come back from the file of
the sealed disk. Such an image is refused.

Source:
    QEMU docs/interop/qcow2.rst, "L1 and L2 tables", "Snapshots".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.sealing.container import read_qcow2_header
from vmsec.sealing.device import storage_error

if TYPE_CHECKING:
    from vmsec.sealing.container import Qcow2Header
    from vmsec.sealing.model import ImageRef

_EXTENDED_L2 = 1 << 4
_MAX_L1_ENTRIES = (32 << 20) // 8
"""QEMU's own limit (QCOW_MAX_L1_SIZE)."""
_OFFSET, _COMPRESSED = np.uint64(0x00FFFFFFFFFFFE00), np.uint64(1 << 62)


def require_overwritable(image: ImageRef) -> None:
    """Refuse to seal what would stay readable in the same file.

    Raises:
        CorruptImageError: Its tables are damaged.
        ImageIOError: It cannot be read.
        UnsupportedFormatError: It has internal snapshots or compressed
            clusters.
    """
    if image.format != "qcow2":
        return
    header = read_qcow2_header(image.path)
    if header.snapshots:
        raise UnsupportedFormatError(
            f"{image.path}: holds {header.snapshots} internal snapshots, "
            "which stay readable; delete them with 'qemu-img snapshot -d' "
            "and rewrite the image with 'qemu-img convert'"
        )
    try:
        with image.path.open("rb") as stream:
            compressed = _has_compressed(stream, header)
    except OSError as err:
        raise storage_error("read", str(image.path), err) from err
    if compressed:
        raise UnsupportedFormatError(
            f"{image.path}: holds compressed clusters, which are replaced "
            "and stay readable; rewrite the image with 'qemu-img convert -O "
            "qcow2'"
        )


def _has_compressed(stream: BinaryIO, header: Qcow2Header) -> bool:
    place, count = header.l1
    if not 9 <= header.cluster_bits <= 21 or count > _MAX_L1_ENTRIES:
        raise CorruptImageError(f"{stream.name}: its L1 table is damaged")
    step = 2 if header.features & _EXTENDED_L2 else 1
    stream.seek(place)
    tables = np.frombuffer(_read(stream, 8 * count), ">u8") & _OFFSET
    for table in tables[tables != 0].tolist():
        stream.seek(table)
        entries = np.frombuffer(_read(stream, 1 << header.cluster_bits), ">u8")
        if (entries[::step] & _COMPRESSED).any():
            return True
    return False


def _read(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise CorruptImageError(f"{stream.name}: a table is cut short")
    return data
