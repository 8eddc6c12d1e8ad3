"""XXH64, one of the checksums of Btrfs.

Source:
    xxHash fast digest algorithm, specification 0.1.1, "XXH64 algorithm
    description".
"""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1
_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_STRIPE = struct.Struct("<4Q")
_WORD, _HALF = struct.Struct("<Q"), struct.Struct("<I")


def xxhash64(data: bytes) -> int:
    """Return the XXH64 of a string, with seed 0."""
    whole = len(data) - len(data) % _STRIPE.size
    value = _stripes(data[:whole]) if whole else _P5
    return _avalanche(_tail(data[whole:], value + len(data) & _MASK))


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotate(lane + word * _P2 & _MASK, 31) * _P1 & _MASK


def _stripes(data: bytes) -> int:
    """Steps 1 to 3: four lanes, then their convergence."""
    lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
    for words in _STRIPE.iter_unpack(data):
        lanes = list(map(_round, lanes, words))
    value = sum(map(_rotate, lanes, (1, 7, 12, 18))) & _MASK
    for lane in lanes:
        value = (value ^ _round(0, lane)) * _P1 + _P4 & _MASK
    return value


def _tail(data: bytes, value: int) -> int:
    """Step 5: what is left, by eight, four and single bytes."""
    at = 0
    while len(data) - at >= _WORD.size:
        value ^= _round(0, _WORD.unpack_from(data, at)[0])
        value = _rotate(value, 27) * _P1 + _P4 & _MASK
        at += _WORD.size
    if len(data) - at >= _HALF.size:
        value ^= _HALF.unpack_from(data, at)[0] * _P1 & _MASK
        value = _rotate(value, 23) * _P2 + _P3 & _MASK
        at += _HALF.size
    for byte in data[at:]:
        value = _rotate(value ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    return value


def _avalanche(value: int) -> int:
    """Step 6."""
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32
