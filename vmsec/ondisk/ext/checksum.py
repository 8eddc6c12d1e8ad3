"""CRC-32C and CRC-16 as ext4 uses them, over one string or many rows.

ext4 never inverts the result; a caller passes the running value.

Source:
    Linux Documentation/filesystems/ext4/checksums.rst; Linux lib/crc16.c
    (polynomial 0x8005, reflected).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from vmsec.ondisk.crc32c import START as CRC32C_START
from vmsec.ondisk.crc32c import TABLE as CRC32C_TABLE
from vmsec.ondisk.crc32c import crc32c, remainders

if TYPE_CHECKING:
    from vmsec.ondisk.ext.layout import Uint32Array

__all__ = [
    "CRC16_START",
    "CRC16_TABLE",
    "CRC32C_START",
    "CRC32C_TABLE",
    "checksum_rows",
    "crc32c",
]

CRC16_START: Final = 0xFFFF
CRC16_TABLE: Final = remainders(0xA001)


def checksum_rows(
    table: Uint32Array, value: int, rows: npt.NDArray[np.uint8]
) -> Uint32Array:
    """Continue a checksum from ``value`` over every row of a matrix.

    Args:
        table: :data:`CRC32C_TABLE` or :data:`CRC16_TABLE`.
        value: Where every row starts from.
        rows: One string per row, all of the same length.

    Returns:
        One checksum per row, in order.
    """
    sums = np.full(len(rows), value, dtype=np.uint32)
    for column in np.ascontiguousarray(rows.T):
        sums = table[(sums ^ column) & 0xFF] ^ sums >> 8
    return sums
