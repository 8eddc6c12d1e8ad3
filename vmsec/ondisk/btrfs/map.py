"""The metadata map of a Btrfs volume on one device.

Btrfs keeps its trees in chunks of their own. These are mapped as a whole,
with what is not in use: a tree is never changed in place, so the free parts
hold older versions of it, names and all. Small files lie inside the trees and
are hidden with them; where data and metadata share chunks (``mkfs.btrfs
--mixed``), all contents are.

What cannot be in the map: trees in chunks that were given back (``btrfs
balance``, the first steps of ``mkfs.btrfs``). Like all free space they are
for the guest's ``fstrim``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.ondisk.btrfs.chunk import DATA, SYSTEM, Chunk, read_chunks
from vmsec.ondisk.btrfs.superblock import (
    FLAG_ERROR,
    MIRRORS,
    SUPERBLOCK_BYTES,
    Superblock,
    read_superblock,
)
from vmsec.ondisk.extent import ExtentBuilder, MetadataClass, VolumeMap

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource


def map_btrfs(source: BlockSource) -> VolumeMap:
    """Find all metadata of a Btrfs volume.

    Returns:
        The boot area, all superblocks inside the volume, and every system
        and metadata chunk.

    Raises:
        CorruptImageError: A structure is wrong; ``btrfs check``.
        UnsupportedFormatError: A feature is not supported, or the file
            system has more devices.
        LimitExceededError: The chunk tree is beyond all reason.
    """
    sb = read_superblock(source)
    chunks = read_chunks(source, sb)
    builder = ExtentBuilder(source.size_bytes)
    builder.add(0, MIRRORS[0], MetadataClass.BOOT_SECTOR)
    for offset in MIRRORS:
        if offset + SUPERBLOCK_BYTES <= source.size_bytes:
            builder.add(offset, SUPERBLOCK_BYTES, MetadataClass.SUPERBLOCK)
    for chunk in chunks:
        is_system = chunk.kind & SYSTEM
        kind = MetadataClass.SYSTEM_CHUNK if is_system else MetadataClass.CHUNK
        for offset in chunk.offsets:
            builder.add(offset, chunk.length, kind)
    return VolumeMap("btrfs", builder.merged(), _notes(sb, chunks))


def _notes(sb: Superblock, chunks: list[Chunk]) -> tuple[str, ...]:
    notes = []
    if sb.log_root:
        notes.append("the guest did not unmount the file system")
    if sb.flags & FLAG_ERROR:
        notes.append("the guest has seen errors; run 'btrfs check'")
    if any(chunk.kind & DATA for chunk in chunks):
        notes.append("data and metadata share chunks; both are sealed")
    return tuple(notes)
