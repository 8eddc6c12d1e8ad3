"""Swap: which header is one, and what of the volume is mapped."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.errors import CorruptImageError, FormatError, UnsupportedFormatError
from vmsec.ondisk import probe
from vmsec.ondisk.extent import BOOT_CLASSES, Extent, MetadataClass
from vmsec.ondisk.source import MemorySource
from vmsec.ondisk.swap import PAGE_BYTES, is_swap, map_swap

SIGNATURES = (b"SWAPSPACE2", b"S1SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001")


def swap(
    page: int = 4096,
    signature: bytes = b"SWAPSPACE2",
    *,
    header: bytes = struct.pack("<II", 1, 31),
    pages: int = 32,
) -> MemorySource:
    volume = bytearray(page * pages)
    volume[1024 : 1024 + len(header)] = header
    volume[page - 10 : page] = signature
    return MemorySource(volume)


@pytest.mark.parametrize("page", PAGE_BYTES)
@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_first_page_is_mapped_and_nothing_else(
    page: int, signature: bytes
) -> None:
    found = probe.probe_volume(swap(page, signature))
    assert found.status is probe.Status.FILESYSTEM
    assert found.content is not None
    assert found.content.filesystem == "swap"
    assert found.content.extents == (
        Extent(0, page, MetadataClass.SWAP_HEADER),
    )
    assert MetadataClass.SWAP_HEADER in BOOT_CLASSES


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_hibernation_image_is_told_to_the_operator(signature: bytes) -> None:
    notes = "; ".join(map_swap(swap(signature=signature)).notes)
    assert ("hibernation" in notes) == (signature != b"SWAPSPACE2")


def test_the_swap_of_a_big_endian_machine_is_read() -> None:
    source = swap(65536, header=struct.pack(">II", 1, 31))
    assert map_swap(source).extents[0].length == 65536


def test_a_header_of_another_version_makes_the_volume_unknown() -> None:
    source = swap(header=struct.pack("<II", 2, 31))
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        map_swap(source)
    assert probe.probe_volume(source).status is probe.Status.UNKNOWN


def test_a_header_without_pages_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="no pages"):
        map_swap(swap(header=struct.pack("<II", 1, 0)))


def test_what_bears_no_signature_is_refused() -> None:
    assert not is_swap(MemorySource(bytes(1 << 20)))
    with pytest.raises(CorruptImageError, match="no signature"):
        map_swap(MemorySource(bytes(1 << 20)))


def test_a_volume_shorter_than_its_page_is_no_swap() -> None:
    assert not is_swap(MemorySource(bytes(swap().read_at(0, 4095))))
    assert not is_swap(MemorySource(b""))


def test_a_stale_signature_in_another_file_system_is_not_believed() -> None:
    volume = bytearray(swap().read_at(0, 32 * 4096))
    volume[:4] = b"hsqs"
    found = probe.probe_volume(MemorySource(volume))
    assert found.status is probe.Status.UNKNOWN
    assert found.note.startswith("SquashFS")


@given(
    header=st.binary(max_size=3000),
    page=st.sampled_from(PAGE_BYTES),
    signature=st.sampled_from(SIGNATURES),
    pages=st.integers(1, 3),
)
def test_any_header_is_refused_or_its_page_is_mapped(
    header: bytes, page: int, signature: bytes, pages: int
) -> None:
    source = swap(page, signature, header=header, pages=pages)
    try:
        found = map_swap(source)
    except FormatError:
        return
    assert found.extents == (Extent(0, page, MetadataClass.SWAP_HEADER),)
