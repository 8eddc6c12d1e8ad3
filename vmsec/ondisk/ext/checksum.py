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

if TYPE_CHECKING:
    from vmsec.ondisk.ext.layout import Uint32Array

CRC32C_START: Final = 0xFFFFFFFF
CRC16_START: Final = 0xFFFF


def _table(polynomial: int) -> Uint32Array:
    """Return the 256 remainders of a reflected polynomial."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ polynomial, table >> 1)
    return table.astype(np.uint32)


CRC32C_TABLE: Final = _table(0x82F63B78)
CRC16_TABLE: Final = _table(0xA001)
_CRC32C_LIST = CRC32C_TABLE.tolist()


def crc32c(value: int, data: bytes) -> int:
    """Continue a CRC-32C from ``value`` over ``data``; not inverted."""
    for byte in data:
        value = _CRC32C_LIST[(value ^ byte) & 0xFF] ^ value >> 8
    return value


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
