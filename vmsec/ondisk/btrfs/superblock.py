"""The superblock of Btrfs: what it must be before anything else is read.

Only the primary is read, as the kernel does; its mirrors hold the same and
are mapped by their place.

Units:
    Bytes from the start of the device; ``logical`` addresses are those of
    the file system, which chunks translate.

Source:
    Linux ``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_super_block``)
    and ``fs/btrfs/disk-io.c`` (``btrfs_validate_super``).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk import crc32c
from vmsec.ondisk.btrfs.xxhash64 import xxhash64

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.ondisk.source import BlockSource

SUPERBLOCK_BYTES = 4096
MIRRORS = (64 << 10, 64 << 20, 256 << 30)
"""Where the primary and its two mirrors are."""

CHECKSUM_BYTES = 32
MAX_LEVEL = 7
"""``BTRFS_MAX_LEVEL - 1``."""

_MAGIC, _MAGIC_AT = b"_BHRfS_M", 64
_FIELDS = struct.Struct("<32s16sQQ8s9Q5IQQQQHBBBQ")
_METADATA_UUID_AT = 571
_SYSTEM_CHUNKS_AT, _SYSTEM_CHUNKS_BYTES = 811, 2048

_METADATA_UUID = 1 << 10
_INCOMPAT = {
    1 << 12: "ZONED",
    1 << 13: "EXTENT_TREE_V2",
    1 << 14: "RAID_STRIPE_TREE",
}
"""Known and not supported: superblocks elsewhere, or another tree."""

_SUPPORTED_INCOMPAT = (1 << 12) - 1 | 1 << 16
"""MIXED_BACKREF to RAID1C34, SIMPLE_QUOTA."""

_SIZES = frozenset({4096, 8192, 16384, 32768, 65536})
"""Of sectors and of nodes: pages of Linux, up to its largest node."""

FLAG_ERROR = 1 << 2
_SUPPORTED_FLAGS = 0b111 | 1 << 32
"""WRITTEN, RELOC, ERROR, SEEDING; not the dumps of btrfs-image, nor a change
of identity or checksums that was interrupted."""


def _crc32c(data: bytes) -> bytes:
    value = crc32c.crc32c(crc32c.START, data) ^ 0xFFFFFFFF
    return value.to_bytes(4, "little")


def _xxhash64(data: bytes) -> bytes:
    return xxhash64(data).to_bytes(8, "little")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


CHECKSUMS: dict[int, Callable[[bytes], bytes]] = {
    0: _crc32c,
    1: _xxhash64,
    2: _sha256,
    3: _blake2b,
}
"""``enum btrfs_csum_type``."""


class Superblock(NamedTuple):
    """What the map needs of it; everything is checked.

    ``identity`` is the one that tree nodes bear; ``system_chunks`` are packed
    keys and chunk items.
    """

    identity: bytes
    device: int
    checksum_type: int
    sector_bytes: int
    node_bytes: int
    chunk_root: int
    chunk_root_level: int
    chunk_root_generation: int
    system_chunks: bytes
    flags: int
    log_root: int

    def has_checksum(self, data: bytes) -> bool:
        """Whether a superblock or node begins with its own checksum."""
        found = CHECKSUMS[self.checksum_type](data[CHECKSUM_BYTES:])
        return data.startswith(found)


def has_magic(source: BlockSource) -> bool:
    """Whether the primary superblock bears the magic of Btrfs."""
    at = MIRRORS[0] + _MAGIC_AT
    return (
        source.size_bytes >= MIRRORS[0] + SUPERBLOCK_BYTES
        and source.read_at(at, len(_MAGIC)) == _MAGIC
    )


def read_superblock(source: BlockSource) -> Superblock:
    """Read the primary superblock of a volume with a magic.

    Raises:
        CorruptImageError: It contradicts itself.
        UnsupportedFormatError: A feature is not supported, or there are more
            devices.
    """
    data = source.read_at(MIRRORS[0], SUPERBLOCK_BYTES)
    fields = _FIELDS.unpack_from(data)
    flags, magic = fields[3:5]
    chunk_root, log_root = fields[7:9]
    devices = fields[13]
    sector, node = fields[14:16]
    system_bytes, generation = fields[18:20]
    incompat, checksum_type, _, level, _, device = fields[22:28]
    _require_supported(flags, incompat, checksum_type, devices)
    identity = fields[1]
    if incompat & _METADATA_UUID:
        identity = data[_METADATA_UUID_AT : _METADATA_UUID_AT + 16]
    start = _SYSTEM_CHUNKS_AT
    found = Superblock(
        identity,
        device,
        checksum_type,
        sector,
        node,
        chunk_root,
        level,
        generation,
        data[start : start + min(system_bytes, _SYSTEM_CHUNKS_BYTES)],
        flags,
        log_root,
    )
    if magic != _MAGIC or fields[2] != MIRRORS[0]:
        raise _corrupt("it is not where it says it is")
    if not found.has_checksum(data):
        raise _corrupt("its checksum is wrong")
    _require_valid(found, system_bytes)
    return found


def _require_supported(
    flags: int, incompat: int, checksum_type: int, devices: int
) -> None:
    unknown = incompat & ~_SUPPORTED_INCOMPAT
    if unknown:
        names = [name for bit, name in _INCOMPAT.items() if unknown & bit]
        raise UnsupportedFormatError(
            f"features {unknown:#x} ({', '.join(names) or 'unknown'})"
        )
    if flags & ~_SUPPORTED_FLAGS:
        raise UnsupportedFormatError(
            f"flags {flags & ~_SUPPORTED_FLAGS:#x}: a dump, or a change of "
            "identity or checksums that did not end"
        )
    if checksum_type not in CHECKSUMS:
        raise UnsupportedFormatError(f"checksums of type {checksum_type}")
    if devices != 1:
        raise UnsupportedFormatError(f"one of {devices} devices")


def _require_valid(sb: Superblock, system_bytes: int) -> None:
    if not {sb.sector_bytes, sb.node_bytes} <= _SIZES:
        raise _corrupt(
            f"sectors of {sb.sector_bytes} and nodes of {sb.node_bytes} bytes"
        )
    if sb.node_bytes < sb.sector_bytes or sb.chunk_root % sb.sector_bytes:
        raise _corrupt(
            f"nodes of {sb.node_bytes} bytes at {sb.chunk_root} in sectors "
            f"of {sb.sector_bytes}"
        )
    if sb.chunk_root_level > MAX_LEVEL:
        raise _corrupt(f"a chunk tree of level {sb.chunk_root_level}")
    if not 0 < system_bytes <= _SYSTEM_CHUNKS_BYTES:
        raise _corrupt(f"{system_bytes} bytes of system chunks")


def _corrupt(what: str) -> CorruptImageError:
    return CorruptImageError(
        f"Btrfs: the superblock is wrong: {what}; see 'btrfs rescue "
        "super-recover'"
    )
