"""Formats are known by their constants, encryption before all."""

from __future__ import annotations

import pytest

from tests.support.label import FATVolume
from vmsec.ondisk import magic, probe
from vmsec.ondisk.source import MemorySource

SIZE = 9 << 20
PLACES = [
    (entry.name, entry.constant, at)
    for entry in (*magic.ENCRYPTED, *magic.UNMAPPED)
    for at in (entry.offsets[0], entry.offsets[-1])
]


@pytest.mark.parametrize(("name", "constant", "at"), PLACES)
def test_each_format_is_named_at_its_first_and_last_place(
    name: str, constant: bytes, at: int
) -> None:
    volume = bytearray(SIZE)
    start = at % SIZE
    volume[start : start + len(constant)] = constant
    found = probe.probe_volume(MemorySource(volume))
    assert found.content is None
    assert name in found.note
    encrypted = any(name == entry.name for entry in magic.ENCRYPTED)
    assert (found.status is probe.Status.ENCRYPTED) == encrypted


def test_a_constant_beyond_the_end_is_no_match() -> None:
    assert magic.match(MemorySource(b"LUKS"), magic.ENCRYPTED) is None
    assert magic.match(MemorySource(b""), magic.UNMAPPED) is None


def test_encryption_wins_over_a_file_system_around_it() -> None:
    volume = FATVolume().build()
    to_go = magic.ENCRYPTED[3]
    assert to_go.name == "BitLocker To Go"
    volume[0x1A8 : 0x1A8 + 16] = to_go.constant
    found = probe.probe_volume(MemorySource(volume))
    assert found.status is probe.Status.ENCRYPTED


def test_zeros_are_empty_only_where_all_of_them_were_read() -> None:
    small = probe.probe_volume(MemorySource(bytes(2 << 20)))
    assert small.status is probe.Status.EMPTY
    large = probe.probe_volume(MemorySource(bytes((2 << 20) + 512)))
    assert large.status is probe.Status.UNKNOWN


def test_one_byte_makes_a_small_volume_unknown() -> None:
    found = probe.probe_volume(MemorySource(bytes(5000) + b"x"))
    assert found.status is probe.Status.UNKNOWN
    assert found.note == "no known file system"
