"""Linux swap: the header page, also of a swap with a hibernation image.

What the guest swapped out is content and not part of the map, and so is the
memory that a hibernated guest wrote there.

Units:
    Bytes from the start of the volume.

Source:
    Linux ``include/linux/swap.h`` (``union swap_header``) and
    ``kernel/power/swap.c`` (``struct swsusp_header``); util-linux
    ``libblkid/src/superblocks/swap.c``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.extent import Extent, MetadataClass, VolumeMap

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

PAGE_BYTES = (4096, 8192, 16384, 32768, 65536)
"""Page sizes of Linux: x86 has 4 KiB, arm64 and ppc64 up to 64 KiB."""

_SIGNATURE_BYTES = 10
_SWAP = frozenset({b"SWAP-SPACE", b"SWAPSPACE2"})
_HIBERNATED = frozenset(
    {b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"}
)
"""swsusp, its second form, uswsusp and the kernel since 3.15."""

_HEADER_AT = 1024
_HEADER = (struct.Struct("<II"), struct.Struct(">II"))
"""``version`` and ``last_page``, in the byte order of the machine."""


class _Signature(NamedTuple):
    page_bytes: int
    text: bytes


def is_swap(source: BlockSource) -> bool:
    """Whether the first page, of whatever size, ends in a swap signature."""
    return _find_signature(source) is not None


def map_swap(source: BlockSource) -> VolumeMap:
    """Return the header page of a volume for which :func:`is_swap` holds.

    Raises:
        CorruptImageError: The header has no pages to swap to.
        UnsupportedFormatError: The header is not of version 1.
    """
    found = _find_signature(source)
    if found is None:
        raise CorruptImageError("swap: no signature; make it with mkswap")
    hibernated = found.text in _HIBERNATED
    if found.text == b"SWAPSPACE2":
        _require_header(source)
    notes = [f"pages of {found.page_bytes} bytes"]
    if hibernated:
        notes.append(
            "holds a hibernation image; the memory in it is content and "
            "stays as it is"
        )
    page = Extent(0, found.page_bytes, MetadataClass.SWAP_HEADER)
    return VolumeMap("swap", (page,), tuple(notes))


def _find_signature(source: BlockSource) -> _Signature | None:
    for size in PAGE_BYTES:
        if source.size_bytes < size:
            return None
        text = source.read_at(size - _SIGNATURE_BYTES, _SIGNATURE_BYTES)
        if text in _SWAP | _HIBERNATED:
            return _Signature(size, text)
    return None


def _require_header(source: BlockSource) -> None:
    """Check what the kernel checks (``read_swap_header``)."""
    data = source.read_at(_HEADER_AT, _HEADER[0].size)
    numbers = [order.unpack(data) for order in _HEADER]
    version, last_page = next(
        (pair for pair in numbers if pair[0] == 1), numbers[0]
    )
    if version != 1:
        raise UnsupportedFormatError(f"header of version {version}")
    if last_page == 0:
        raise CorruptImageError(
            "swap: the header says that it has no pages; run mkswap in the "
            "guest"
        )
