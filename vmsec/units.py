"""Units and sizes that everything may use.

Positions and lengths are bytes unless the name says otherwise. A *block* here
is :data:`SEAL_BLOCK_BYTES`: the grain to which sealed extents are rounded.
"""

from __future__ import annotations

from typing import NewType

ByteOffset = NewType("ByteOffset", int)
"""Bytes from the start of the guest-visible disk."""

Generation = NewType("Generation", int)
"""Per disk, raised by every seal; 1 or more."""

KeyVersion = NewType("KeyVersion", int)
"""Per VM, raised by re-key; 1 or more."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

SECTOR_BYTES = 512
"""The smallest logical sector (ATA, SCSI, virtio)."""

SEAL_BLOCK_BYTES = 4096
"""Sealed extents begin and end here (or at the end of the disk): the largest
physical sector in the field and the page in which hosts write."""


def align_down(value: int, grain: int) -> int:
    """Round ``value`` down to a multiple of ``grain`` (both bytes)."""
    return value - value % grain


def align_up(value: int, grain: int) -> int:
    """Round ``value`` up to a multiple of ``grain`` (both bytes)."""
    return -(-value // grain) * grain


def format_bytes(count: int) -> str:
    """Write a number of bytes for people, in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
