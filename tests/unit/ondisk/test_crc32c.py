"""CRC-32C against published values, whatever way it is computed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vmsec.ondisk.crc32c import FEW_ROWS, START, TABLE, crc32c, crc32c_rows

# RFC 3720, B.4
PUBLISHED = {
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    b"123456789": 0xE3069283,
    b"": 0,
}


def slow(value: int, data: bytes) -> int:
    for byte in data:
        value = int(TABLE[(value ^ byte) & 0xFF]) ^ value >> 8
    return value


@pytest.mark.parametrize("data", PUBLISHED)
def test_published_check_values(data: bytes) -> None:
    assert crc32c(START, data) ^ START == PUBLISHED[data]


@pytest.mark.parametrize(
    "length", [4095, 4096, 4097, 4352, 8191, 65536, 70001]
)
def test_long_strings_in_rows_give_the_same(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(0x12345678, data) == slow(0x12345678, data)


def test_a_string_may_come_in_pieces() -> None:
    data = random.Random(0).randbytes(20000)
    for cut in (0, 1, 5000, 19999):
        assert crc32c(crc32c(START, data[:cut]), data[cut:]) == crc32c(
            START, data
        )


@pytest.mark.parametrize("count", [0, 1, FEW_ROWS, FEW_ROWS + 1, 100])
def test_rows_give_what_each_gives_alone(count: int) -> None:
    data = random.Random(count).randbytes(count * 512)
    rows = np.frombuffer(data, dtype=np.uint8).reshape(count, 512)
    assert crc32c_rows(START, rows).tolist() == [
        slow(START, row.tobytes()) for row in rows
    ]
