"""The mark in LBA 0: what it says, and what damage to it is called."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.crypto.context import SealContext
from vmsec.errors import HeaderError, IntegrityError
from vmsec.ondisk.extent import Level
from vmsec.sealing.header import (
    MAGIC,
    STUB,
    EmbeddedManifest,
    SealHeader,
    is_marked,
    parse_header,
    verify_header,
)

KEY = bytes(32)
VM = UUID("11111111-2222-4333-8444-555555555555")


def _header(
    sector: int = 512, disk: int = 1 << 30, level: Level = Level.METADATA
) -> SealHeader:
    context = SealContext(VM, UUID(int=7), 3, 2, b"salt" * 4)
    manifest = EmbeddedManifest(65536, 1000, b"d" * 32)
    return SealHeader(context, level, disk, sector, manifest)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("level", Level)
def test_what_is_packed_is_parsed(sector: int, level: Level) -> None:
    header = _header(sector=sector, level=level)
    lba0 = header.pack(KEY)
    assert len(lba0) == sector
    assert is_marked(lba0)
    assert parse_header(lba0, target="x") == header
    verify_header(lba0, header, KEY, target="x")


def test_it_is_a_valid_mbr_with_one_entry_of_type_da() -> None:
    """UEFI 2.10 5.2.1: one used entry, 55AA, boot flags zero."""
    lba0 = _header().pack(KEY)
    assert lba0[510:512] == b"\x55\xaa"
    flag, kind, start, size = struct.unpack_from("<B3xB3xII", lba0, 446)
    assert (flag, kind, start) == (0, 0xDA, 1)
    assert size == (1 << 30) // 512 - 1
    assert lba0[462:510] == bytes(48)


def test_its_text_names_the_vm() -> None:
    lba0 = _header().pack(KEY)
    text = lba0[len(STUB) : 256].rstrip(b"\0").decode()
    assert f"sealed by vmsec, VM {VM};" in text
    assert "it starts only in its own cloud" in text


def test_another_key_is_refused() -> None:
    header = _header()
    lba0 = header.pack(KEY)
    with pytest.raises(IntegrityError):
        verify_header(lba0, header, b"k" * 32, target="x")


def _open(lba0: bytes) -> None:
    verify_header(lba0, parse_header(lba0, target="x"), KEY, target="x")


@given(st.integers(0, 511), st.integers(0, 7))
def test_no_flipped_bit_makes_it_plain_or_valid(byte: int, bit: int) -> None:
    """Damage is seen without the key, or by the key; it is never "plain"."""
    header = _header()
    lba0 = bytearray(header.pack(KEY))
    lba0[byte] ^= 1 << bit
    assert is_marked(bytes(lba0))
    with pytest.raises((HeaderError, IntegrityError)):
        _open(bytes(lba0))


@given(st.binary(min_size=512, max_size=512))
def test_garbage_is_no_mark(lba0: bytes) -> None:
    assert not is_marked(lba0)


@given(st.binary(min_size=248, max_size=248))
def test_a_magic_with_garbage_behind_is_an_error(rest: bytes) -> None:
    lba0 = bytes(256) + MAGIC + rest
    assert is_marked(lba0)
    with pytest.raises(HeaderError):
        parse_header(lba0, target="x")


def test_a_newer_format_says_so() -> None:
    lba0 = bytearray(_header().pack(KEY))
    lba0[265] = 9
    with pytest.raises(HeaderError, match="newer vmsec"):
        parse_header(bytes(lba0), target="x")


def test_an_unknown_mandatory_feature_is_refused() -> None:
    lba0 = bytearray(_header().pack(KEY))
    lba0[269] = 1
    with pytest.raises(HeaderError, match="features 0x1"):
        parse_header(bytes(lba0), target="x")


@pytest.mark.parametrize("generation", [0, (1 << 31) + 1, (1 << 64) - 1])
def test_a_counter_that_leaves_no_room_is_refused(generation: int) -> None:
    """Planted by a guest, it would end the counting of who remembers it."""
    context = SealContext(VM, UUID(int=7), generation, 2, b"salt" * 4)
    lba0 = _header()._replace(context=context).pack(KEY)
    with pytest.raises(HeaderError, match="counter"):
        parse_header(lba0, target="x")
