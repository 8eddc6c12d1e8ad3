"""Btrfs volumes written by hand: a superblock and a chunk tree.

Written from the kernel's headers and apart from the parser, so that a field
can be set to anything. Knows no pytest.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

MIB = 1 << 20
SUPERBLOCK = 64 << 10
IDENTITY = b"identity of btrf"
OTHER_IDENTITY = b"metadata of btrf"
DATA, SYSTEM, METADATA, RAID0, DUP = 1, 2, 4, 8, 32
SYSTEM_AT, SYSTEM_BYTES = MIB, MIB
NODE = 4096


def _crc32c(data: bytes) -> bytes:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return struct.pack("<I", value ^ 0xFFFFFFFF)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


CHECKSUMS = {0: _crc32c, 2: _sha256}


@dataclass
class Chunk:
    """A chunk; stripes are (device, offset)."""

    logical: int
    length: int
    kind: int
    stripes: list[tuple[int, int]]

    @property
    def key(self) -> bytes:
        """Key of its item."""
        return struct.pack("<QBQ", 256, 228, self.logical)

    def item(self) -> bytes:
        """Its item without the key."""
        data = struct.pack(
            "<QQQQIIIHH", self.length, 2, 65536, self.kind, 4096, 4096, 4096,
            len(self.stripes), 0,
        )  # fmt: skip
        for device, offset in self.stripes:
            data += struct.pack("<QQ16s", device, offset, b"device")
        return data


def system_chunk() -> Chunk:
    return Chunk(SYSTEM_AT, SYSTEM_BYTES, SYSTEM, [(1, SYSTEM_AT)])


def metadata_chunk() -> Chunk:
    return Chunk(
        16 * MIB, MIB, METADATA | DUP, [(1, 3 * MIB), (1, 5 * MIB)]
    )  # fmt: skip


@dataclass
class BtrfsVolume:
    """A device of 8 MiB unless told otherwise.

    ``header`` has other values for the fields of tree nodes, ``fields`` for
    those of the superblock by offset.
    """

    size: int = 8 * MIB
    checksum: int = 2
    system: list[Chunk] = field(default_factory=lambda: [system_chunk()])
    chunks: list[Chunk] = field(
        default_factory=lambda: [system_chunk(), metadata_chunk()]
    )
    levels: int = 0
    fields: dict[int, bytes] = field(default_factory=dict)
    header: dict[str, int] = field(default_factory=dict)
    disk: bytearray = field(default_factory=bytearray)

    def node(self, logical: int, level: int, count: int, body: bytes) -> bytes:
        """A node of the chunk tree with its checksum."""
        wide = struct.unpack_from("<Q", self.fields.get(188, bytes(8)))[0]
        identity = OTHER_IDENTITY if wide & 1 << 10 else IDENTITY
        values = {"bytenr": logical, "generation": 7, "owner": 3,
                  "count": count, "level": level} | self.header  # fmt: skip
        data = struct.pack(
            "<16sQQ16sQQIB", identity, values["bytenr"], 1, b"chunk tree",
            values["generation"], values["owner"], values["count"],
            values["level"],
        )  # fmt: skip
        data = (data + body).ljust(NODE - 32, b"\0")
        return CHECKSUMS[self.checksum](data).ljust(32, b"\0") + data

    def leaf(self, logical: int, chunks: list[Chunk]) -> bytes:
        """A leaf with the items of some chunks and of one device."""
        items = [(struct.pack("<QBQ", 1, 216, 1), bytes(98))]
        items += [(chunk.key, chunk.item()) for chunk in chunks]
        place = NODE - 101
        heads, contents = b"", b""
        for key, content in items:
            place -= len(content)
            heads += key + struct.pack("<II", place, len(content))
            contents = content + contents
        gap = NODE - 101 - len(heads) - len(contents)
        return self.node(logical, 0, len(items), heads + bytes(gap) + contents)

    def inner(self, logical: int, level: int, children: list[int]) -> bytes:
        """A node that points to others."""
        body = b"".join(
            struct.pack("<QBQQQ", 256, 228, 0, child, 7) for child in children
        )
        return self.node(logical, level, len(children), body)

    def superblock(self) -> bytes:
        """The primary superblock."""
        packed = b"".join(c.key + c.item() for c in self.system)
        data = bytearray(4096)
        data[32:48] = IDENTITY
        struct.pack_into("<QQ8s", data, 48, SUPERBLOCK, 1, b"_BHRfS_M")
        struct.pack_into("<QQQ", data, 72, 7, 0, SYSTEM_AT)
        struct.pack_into("<QQQQ", data, 112, self.size, 0, 6, 1)
        struct.pack_into("<IIIII", data, 144, 4096, NODE, NODE, 4096,
                         len(packed))  # fmt: skip
        struct.pack_into("<Q", data, 164, 7)
        struct.pack_into("<QHBBB", data, 188, 0x341, self.checksum, 0,
                         self.levels, 0)  # fmt: skip
        struct.pack_into("<QQ", data, 201, 1, self.size)
        data[571:587] = OTHER_IDENTITY
        data[811 : 811 + len(packed)] = packed
        for at, value in self.fields.items():
            data[at : at + len(value)] = value
        digest = CHECKSUMS[self.checksum](bytes(data[32:]))
        data[: len(digest)] = digest
        return bytes(data)

    def build(self) -> bytearray:
        """Return the device; the root of the chunk tree comes first."""
        self.disk = bytearray(self.size)
        self.disk[SUPERBLOCK : SUPERBLOCK + 4096] = self.superblock()
        for level in range(self.levels, 0, -1):
            logical = SYSTEM_AT + (self.levels - level) * NODE
            self.write(logical, self.inner(logical, level, [logical + NODE]))
        logical = SYSTEM_AT + self.levels * NODE
        self.write(logical, self.leaf(logical, self.chunks))
        return self.disk

    def write(self, logical: int, node: bytes) -> None:
        """Write a node into every copy of the first system chunk."""
        chunk = self.system[0]
        for _, offset in chunk.stripes:
            at = logical - chunk.logical + offset
            self.disk[at : at + NODE] = node
