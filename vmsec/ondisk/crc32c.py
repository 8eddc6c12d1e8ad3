"""CRC-32C (Castagnoli) over one string, or over many rows at once.

The functions continue a running value and never invert it; a caller starts
from :data:`START` and inverts where its format says so.

A long string is cut into rows, which numpy handles side by side; what the
rows before one contribute is carried over by a table (the checksum is linear:
a state followed by zeros is a function of that state alone).

Source:
    RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected); Linux
    lib/crc32.c (slicing).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Uint32Array: TypeAlias = npt.NDArray[np.uint32]

START: Final = 0xFFFFFFFF

FEW_ROWS: Final = 8
"""Up to here single bytes are faster than numpy."""

_ROW_BYTES: Final = 256
_LONG_BYTES: Final = 4096


def remainders(polynomial: int) -> Uint32Array:
    """Return the 256 remainders of a reflected polynomial."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ polynomial, table >> 1)
    return table.astype(np.uint32)


TABLE: Final = remainders(0x82F63B78)


def _after_zeros(states: Uint32Array, count: int) -> Uint32Array:
    """Return what states become when ``count`` zero bytes follow."""
    for _ in range(count):
        states = TABLE[states & 0xFF] ^ states >> 8
    return states


_LIST: Final = TABLE.tolist()
_HALF: Final = np.arange(1 << 16, dtype=np.uint32)
_LOW: Final = _after_zeros(_HALF, 4)
_HIGH: Final = _after_zeros(_HALF << np.uint32(16), 4)
_CARRY: Final = [
    _after_zeros(_HALF[:256] << np.uint32(shift), _ROW_BYTES).tolist()
    for shift in (0, 8, 16, 24)
]


def crc32c(value: int, data: bytes) -> int:
    """Continue a CRC-32C from ``value`` over ``data``; not inverted."""
    if len(data) >= _LONG_BYTES:
        whole = len(data) // _ROW_BYTES * _ROW_BYTES
        value, data = _over_rows(value, data[:whole]), data[whole:]
    for byte in data:
        value = _LIST[(value ^ byte) & 0xFF] ^ value >> 8
    return value


def crc32c_rows(value: int, rows: npt.NDArray[np.uint8]) -> Uint32Array:
    """Continue a CRC-32C from ``value`` over every row of a matrix.

    Args:
        value: Where every row starts from.
        rows: One string per row; their length is a multiple of four.

    Returns:
        One checksum per row, in order; not inverted.
    """
    if len(rows) <= FEW_ROWS:
        return np.array(
            [crc32c(value, row.tobytes()) for row in rows], dtype=np.uint32
        )
    return _side_by_side(value, rows)


def _side_by_side(value: int, rows: npt.NDArray[np.uint8]) -> Uint32Array:
    """Go through all rows together, four bytes at a step."""
    words = np.ascontiguousarray(rows).view("<u4")
    sums = np.full(len(rows), value, dtype="<u4")
    halves = sums.view("<u2").reshape(-1, 2)
    low, high = np.empty_like(sums), np.empty_like(sums)
    for column in np.ascontiguousarray(words.T):
        np.bitwise_xor(sums, column, out=sums)
        np.take(_LOW, halves[:, 0], out=low, mode="clip")
        np.take(_HIGH, halves[:, 1], out=high, mode="clip")
        np.bitwise_xor(low, high, out=sums)
    return sums


def _over_rows(value: int, data: bytes) -> int:
    """Continue over a string of whole rows."""
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, _ROW_BYTES)
    first, second, third, fourth = _CARRY
    for own in _side_by_side(0, rows).tolist():
        value = (
            first[value & 0xFF]
            ^ second[value >> 8 & 0xFF]
            ^ third[value >> 16 & 0xFF]
            ^ fourth[value >> 24]
            ^ own
        )
    return value
