"""Chunks: which bytes of the device hold which addresses of the file system.

The superblock names the chunks that hold the chunk tree; that tree names all.

Units:
    Bytes; ``logical`` addresses are those of the file system, ``offset`` is
    from the start of the device.

Source:
    Linux ``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_chunk``,
    ``btrfs_header``), ``fs/btrfs/tree-checker.c``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.btrfs.superblock import Superblock
    from vmsec.ondisk.source import BlockSource

DATA, SYSTEM, METADATA = 1, 2, 4
_DUP = 1 << 5
_PROFILES = {
    1 << 3: "raid0",
    1 << 4: "raid1",
    _DUP: "dup",
    1 << 6: "raid10",
    1 << 7: "raid5",
    1 << 8: "raid6",
    1 << 9: "raid1c3",
    1 << 10: "raid1c4",
}
_KNOWN_BITS = (1 << 11) - 1

_KEY = struct.Struct("<QBQ")
_CHUNK = struct.Struct("<QQQQIIIHH")
_STRIPE = struct.Struct("<QQ16s")
_HEADER = struct.Struct("<32s16sQQ16sQQIB")
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
_CHUNK_TREE = 3
_FIRST_CHUNK, _CHUNK_ITEM = 256, 228


class Chunk(NamedTuple):
    """A run of addresses; ``offsets`` are where its copies lie."""

    logical: int
    length: int
    kind: int
    offsets: tuple[int, ...]


class _NodeRef(NamedTuple):
    logical: int
    level: int
    generation: int


def read_chunks(source: BlockSource, sb: Superblock) -> list[Chunk]:
    """Return all chunks that hold the trees of a file system.

    Chunks of data alone are left out, whatever their profile.

    Raises:
        CorruptImageError: A chunk or the chunk tree is wrong.
        UnsupportedFormatError: A chunk lies on several devices.
        LimitExceededError: The chunk tree is beyond all reason.
    """
    system = list(_system_chunks(sb))
    tree = _ChunkTree(source, sb, system)
    found = {chunk.logical: chunk for chunk in system}
    for key, data in tree.items():
        objectid, kind, logical = key
        if kind != _CHUNK_ITEM or objectid != _FIRST_CHUNK:
            continue
        chunk, _ = _parse_chunk(sb, logical, data)
        if chunk is not None:
            found[logical] = chunk
    if not any(chunk.kind & METADATA for chunk in found.values()):
        raise _corrupt("there is no chunk of metadata")
    return list(found.values())


def _system_chunks(sb: Superblock) -> Iterator[Chunk]:
    """Yield the chunks that the superblock names."""
    at = 0
    while at < len(sb.system_chunks):
        try:
            objectid, kind, logical = _KEY.unpack_from(sb.system_chunks, at)
        except struct.error as err:
            raise _corrupt("the superblock names half a chunk") from err
        at += _KEY.size
        chunk, length = _parse_chunk(sb, logical, sb.system_chunks[at:])
        wanted = (_FIRST_CHUNK, _CHUNK_ITEM)
        if (objectid, kind) != wanted or not chunk or not chunk.kind & SYSTEM:
            raise _corrupt(
                f"the superblock names a system chunk at {logical} that is "
                "none"
            )
        yield chunk
        at += length


def _parse_chunk(
    sb: Superblock, logical: int, data: bytes
) -> tuple[Chunk | None, int]:
    """Return a chunk, unless it holds data alone, and its item's length."""
    try:
        fields = _CHUNK.unpack_from(data)
        length, kind, count = fields[0], fields[3], fields[7]
        limits.require_limit(
            count, limits.MAX_BTRFS_STRIPES, "Btrfs: the stripes of a chunk"
        )
        stripes = [
            _STRIPE.unpack_from(data, _CHUNK.size + n * _STRIPE.size)
            for n in range(count)
        ]
    except struct.error as err:
        raise _corrupt(f"the chunk at {logical} is cut off") from err
    size = _CHUNK.size + count * _STRIPE.size
    if kind & ~_KNOWN_BITS:
        raise UnsupportedFormatError(f"a chunk of type {kind:#x}")
    if kind & (SYSTEM | METADATA) == 0:
        return None, size
    _require_profile(kind, count)
    if not length or length % sb.sector_bytes or logical % sb.sector_bytes:
        raise _corrupt(f"the chunk at {logical} has {length} bytes")
    if any(device != sb.device for device, _, _ in stripes):
        raise UnsupportedFormatError("a chunk of metadata on another device")
    offsets = tuple(offset for _, offset, _ in stripes)
    return Chunk(logical, length, kind, offsets), size


def _require_profile(kind: int, stripes: int) -> None:
    """Check that every stripe is a whole copy on this device."""
    names = [name for bit, name in _PROFILES.items() if kind & bit]
    if names not in ([], ["dup"]):
        raise UnsupportedFormatError(f"metadata of profile {'+'.join(names)}")
    if stripes != 1 + len(names):
        raise _corrupt(f"a chunk has {stripes} stripes ({names or 'single'})")


class _ChunkTree:
    """Reads the chunk tree through the system chunks."""

    def __init__(
        self, source: BlockSource, sb: Superblock, system: list[Chunk]
    ) -> None:
        self._source, self._sb, self._system = source, sb, system

    def items(self) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """Yield the key and content of every item."""
        sb = self._sb
        waiting = [
            _NodeRef(
                sb.chunk_root, sb.chunk_root_level, sb.chunk_root_generation
            )
        ]
        seen: set[int] = set()
        while waiting:
            ref = waiting.pop()
            if ref.logical in seen:
                raise _corrupt(f"the node at {ref.logical} is used twice")
            seen.add(ref.logical)
            limits.require_limit(
                len(seen),
                limits.MAX_BTRFS_CHUNK_NODES,
                "Btrfs: the number of nodes of the chunk tree",
            )
            node, count = self._read(ref)
            if ref.level:
                waiting += _children(node, count, ref)
            else:
                yield from _leaf_items(node, count, ref)

    def _read(self, ref: _NodeRef) -> tuple[bytes, int]:
        """Return the first whole copy of a node, and its items' count."""
        sb = self._sb
        for offset in self._places(ref.logical):
            node = self._source.read_at(offset, sb.node_bytes)
            header = _HEADER.unpack_from(node)
            wanted = (sb.identity, ref.logical)
            described = (header[5], header[6], header[8])
            if (
                sb.has_checksum(node)
                and header[1:3] == wanted
                and described == (ref.generation, _CHUNK_TREE, ref.level)
            ):
                return node, header[7]
        raise _corrupt(f"no copy of the node at {ref.logical} is whole")

    def _places(self, logical: int) -> Iterator[int]:
        """Yield where the copies of a node lie."""
        for chunk in self._system:
            inside = logical - chunk.logical
            if 0 <= inside <= chunk.length - self._sb.node_bytes:
                for offset in chunk.offsets:
                    yield offset + inside
                return
        raise _corrupt(f"the node at {logical} is in no system chunk")


def _children(node: bytes, count: int, ref: _NodeRef) -> list[_NodeRef]:
    """Return what an inner node points to."""
    if not 0 < count <= (len(node) - _HEADER.size) // _POINTER.size:
        raise _corrupt(f"the node at {ref.logical} has {count} children")
    found = []
    for n in range(count):
        at = _HEADER.size + n * _POINTER.size
        *_, logical, generation = _POINTER.unpack_from(node, at)
        found.append(_NodeRef(logical, ref.level - 1, generation))
    return found


def _leaf_items(
    node: bytes, count: int, ref: _NodeRef
) -> Iterator[tuple[tuple[int, int, int], bytes]]:
    """Yield the items of a leaf; their places count from its header's end."""
    end_of_items = _HEADER.size + count * _ITEM.size
    if end_of_items > len(node):
        raise _corrupt(f"the leaf at {ref.logical} has {count} items")
    for n in range(count):
        *key, place, size = _ITEM.unpack_from(
            node, _HEADER.size + n * _ITEM.size
        )
        start = _HEADER.size + place
        if start < end_of_items or start + size > len(node):
            raise _corrupt(f"item {n} of the leaf at {ref.logical} is outside")
        yield (key[0], key[1], key[2]), node[start : start + size]


def _corrupt(what: str) -> CorruptImageError:
    return CorruptImageError(
        f"Btrfs: {what}; run 'btrfs check' in the guest first"
    )
