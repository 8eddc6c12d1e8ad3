"""What a volume holds: an ordered, closed table of formats.

1. Encryption first: such a volume is never touched (DESIGN 3.2).
2. Then the file systems that are mapped, each by its own check.
3. Then formats that are only named; the planner seals these, and what nobody
   knows, by the fallback rule.
4. Swap comes last: its signature survives in some file systems made over it.

A parser that says "unsupported" makes the volume unknown; one that says
"corrupt" makes the image refused: the error is not caught here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import UnsupportedFormatError
from vmsec.ondisk import magic
from vmsec.ondisk.btrfs import is_btrfs, map_btrfs
from vmsec.ondisk.exfat import is_exfat, map_exfat
from vmsec.ondisk.ext import is_ext, map_ext
from vmsec.ondisk.fat import is_fat, map_fat
from vmsec.ondisk.finding import Finding, Status
from vmsec.ondisk.lvm import is_lvm, map_lvm
from vmsec.ondisk.ntfs import is_ntfs, map_ntfs
from vmsec.ondisk.swap import is_swap, map_swap
from vmsec.ondisk.xfs import is_xfs, map_xfs
from vmsec.units import MIB

__all__ = ["Finding", "Status", "is_boot_sector", "probe_volume"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.ondisk.extent import VolumeMap
    from vmsec.ondisk.source import BlockSource


class Probe(NamedTuple):
    """A mapped file system: its name, its check and its parser."""

    name: str
    recognise: Callable[[BlockSource], bool]
    map_volume: Callable[[BlockSource], VolumeMap]


def _map_lvm(source: BlockSource) -> VolumeMap:
    return map_lvm(source, _probe_logical_volume)


def _probe_logical_volume(source: BlockSource) -> Finding:
    """Say what a logical volume holds; LVM2 in it is not followed."""
    if is_lvm(source):
        return Finding(
            Status.UNKNOWN, None, "a physical volume of LVM2 inside another"
        )
    return probe_volume(source)


PROBES = (
    Probe("ext", is_ext, map_ext),
    Probe("xfs", is_xfs, map_xfs),
    Probe("ntfs", is_ntfs, map_ntfs),
    Probe("exfat", is_exfat, map_exfat),
    Probe("btrfs", is_btrfs, map_btrfs),
    Probe("lvm", is_lvm, _map_lvm),
    Probe("fat", is_fat, map_fat),
)
"""The order matters: FAT has no magic and comes last."""

_SWAP = Probe("swap", is_swap, map_swap)

_BOOT_RECORD_PROBES = frozenset({"ntfs", "exfat", "fat"})
"""File systems whose boot sector ends in 55AA as an MBR does."""

_BOOT_RECORD_NAMES = frozenset({"BitLocker", "BitLocker To Go"})

_TINY_BYTES = 2 * MIB
"""Up to here a volume is read whole to say that it is empty."""


def is_boot_sector(source: BlockSource) -> bool:
    """Whether a disk begins with the boot sector of a file system.

    Such a sector ends in 55AA and is easily taken for an MBR.
    """
    known = magic.match(source, (*magic.ENCRYPTED, *magic.UNMAPPED))
    return known in _BOOT_RECORD_NAMES or any(
        probe.recognise(source)
        for probe in PROBES
        if probe.name in _BOOT_RECORD_PROBES
    )


def probe_volume(source: BlockSource) -> Finding:
    """Say what a volume holds and map it if it is a known file system.

    Args:
        source: The volume, from its first byte.

    Raises:
        CorruptImageError: A known file system contradicts itself.
        LimitExceededError: It has a number beyond all reason.
    """
    encrypted = magic.match(source, magic.ENCRYPTED)
    if encrypted is not None:
        return Finding(
            Status.ENCRYPTED, None, f"{encrypted}: encrypted, left alone"
        )
    for probe in PROBES:
        if probe.recognise(source):
            return _map(probe, source)
    named = magic.match(source, magic.UNMAPPED)
    if named is not None:
        return Finding(Status.UNKNOWN, None, f"{named}: not mapped yet")
    if _SWAP.recognise(source):
        return _map(_SWAP, source)
    if source.size_bytes <= _TINY_BYTES and not any(
        source.read_at(0, source.size_bytes)
    ):
        return Finding(Status.EMPTY, None, "nothing but zeros")
    return Finding(Status.UNKNOWN, None, "no known file system")


def _map(probe: Probe, source: BlockSource) -> Finding:
    """Run a parser; what it does not support becomes unknown."""
    try:
        content = probe.map_volume(source)
    except UnsupportedFormatError as err:
        return Finding(Status.UNKNOWN, None, f"{probe.name}: {err}")
    return Finding(Status.FILESYSTEM, content, "; ".join(content.notes))
