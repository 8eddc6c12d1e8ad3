"""Small XFS volumes in memory, field by field, for what mkfs.xfs never makes.

Knows no code of the product but its checksum, which has tests of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmsec.ondisk.crc32c import START, crc32c
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 1024
INODE = 512
SECTOR = 512
GROUP_BLOCKS = 256
GROUP_BYTES = GROUP_BLOCKS * BLOCK
GROUP_LOG = 8
UUID = bytes(range(0x40, 0x50))
FREE_LIST, BNO, CNT, INO, CHUNK = (6, 7), 2, 3, 4, 32
"""Blocks of each group: its free list, roots of trees, first inode chunk."""

REGULAR, DIRECTORY, SYMLINK = 0x8000, 0x4000, 0xA000
DEVICE, LOCAL, EXTENTS, BTREE = range(4)
NO_BLOCK, NO_LONG_BLOCK = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
LARGE_COUNTS = 1 << 4

_SB = {
    "sb_magicnum": (0, ">I"),
    "sb_blocksize": (4, ">I"),
    "sb_dblocks": (8, ">Q"),
    "sb_rblocks": (16, ">Q"),
    "sb_logstart": (48, ">Q"),
    "sb_rootino": (56, ">Q"),
    "sb_rbmino": (64, ">Q"),
    "sb_rsumino": (72, ">Q"),
    "sb_agblocks": (84, ">I"),
    "sb_agcount": (88, ">I"),
    "sb_logblocks": (96, ">I"),
    "sb_versionnum": (100, ">H"),
    "sb_sectsize": (102, ">H"),
    "sb_inodesize": (104, ">H"),
    "sb_inopblock": (106, ">H"),
    "sb_blocklog": (120, "B"),
    "sb_sectlog": (121, "B"),
    "sb_inodelog": (122, "B"),
    "sb_inopblog": (123, "B"),
    "sb_agblklog": (124, "B"),
    "sb_inprogress": (126, "B"),
    "sb_uquotino": (160, ">Q"),
    "sb_dirblklog": (192, "B"),
    "sb_features2": (200, ">I"),
    "sb_features_compat": (208, ">I"),
    "sb_features_ro_compat": (212, ">I"),
    "sb_features_incompat": (216, ">I"),
    "sb_features_log_incompat": (220, ">I"),
}
AGF = {
    "length": 12,
    "root_bno": 16,
    "root_cnt": 20,
    "root_rmap": 24,
    "level_bno": 28,
    "level_cnt": 32,
    "level_rmap": 36,
    "flfirst": 40,
    "fllast": 44,
    "flcount": 48,
    "root_refc": 88,
    "level_refc": 92,
}
AGI = {
    "seqno": 8,
    "length": 12,
    "root_ino": 20,
    "level_ino": 24,
    "root_fino": 328,
    "level_fino": 332,
}


class _Sealed(NamedTuple):
    """A structure whose checksum is computed at the end."""

    offset: int
    size: int
    place: int


def extent(block: int, count: int, *, file_offset: int = 0) -> bytes:
    """Pack an extent; ``block`` is a file system block."""
    high = file_offset << 9 | block >> 43
    low = (block & (1 << 43) - 1) << 21 | count
    return struct.pack(">QQ", high, low)


def root(level: int, blocks: Sequence[int], size: int) -> bytes:
    """Pack the root of an extent tree for a fork of ``size`` bytes."""
    room = (size - 4) // 16
    keys = struct.pack(f">{len(blocks)}Q", *range(len(blocks)))
    pointers = struct.pack(f">{len(blocks)}Q", *blocks)
    head = struct.pack(">HH", level, len(blocks))
    return head + keys.ljust(8 * room, b"\0") + pointers


class XFSVolume:
    """A volume of 1 KiB blocks and 512-byte inodes, without an internal log.

    Each group has one chunk of 64 free inodes.
    """

    def __init__(
        self, groups: int = 2, *, has_crc: bool = True, **fields: int
    ) -> None:
        self.groups, self.has_crc = groups, has_crc
        self.data = bytearray(groups * GROUP_BYTES)
        self._sealed: list[_Sealed] = []
        self.core = 176 if has_crc else 100
        self.fork_bytes = INODE - self.core
        for field, value in {
            "sb_magicnum": 0x58465342,
            "sb_blocksize": BLOCK,
            "sb_dblocks": groups * GROUP_BLOCKS,
            "sb_rootino": CHUNK * BLOCK // INODE,
            "sb_agblocks": GROUP_BLOCKS,
            "sb_agcount": groups,
            "sb_versionnum": 0xB4A5 if has_crc else 0xB4A4,
            "sb_features2": 0x8A,
            "sb_sectsize": SECTOR,
            "sb_inodesize": INODE,
            "sb_inopblock": BLOCK // INODE,
            "sb_blocklog": 10,
            "sb_sectlog": 9,
            "sb_inodelog": 9,
            "sb_inopblog": 1,
            "sb_agblklog": GROUP_LOG,
            "sb_features_incompat": 0x1,
            **fields,
        }.items():
            self.set(field, value)
        self.data[32:48] = UUID
        if has_crc:
            self._sealed.append(_Sealed(0, SECTOR, 224))
        for group in range(groups):
            self._make_group(group)

    def set(self, field: str, value: int) -> None:
        """Set a field of the superblock by its name in the specification."""
        place, form = _SB[field]
        struct.pack_into(form, self.data, place, value)

    def set_agf(self, group: int, field: str, value: int) -> None:
        """Set a field of an AGF."""
        at = group * GROUP_BYTES + SECTOR + AGF[field]
        struct.pack_into(">I", self.data, at, value)

    def set_agi(self, group: int, field: str, value: int) -> None:
        """Set a field of an AGI."""
        at = group * GROUP_BYTES + 2 * SECTOR + AGI[field]
        struct.pack_into(">I", self.data, at, value)

    def _make_group(self, group: int) -> None:
        """Write the headers and the trees of a group."""
        start = group * GROUP_BYTES
        agf = (0x58414746, 1, group, GROUP_BLOCKS, BNO, CNT, 0, 1, 1, 0)
        self._header(start + SECTOR, agf, 64, 216)
        for field, value in (("flfirst", 0), ("fllast", 1), ("flcount", 2)):
            self.set_agf(group, field, value)
        agi = (0x58414749, 1, group, GROUP_BLOCKS, 64, INO, 1, 64)
        self._header(start + 2 * SECTOR, agi, 296, 312)
        place = start + 3 * SECTOR
        if self.has_crc:
            self._header(place, (0x5841464C, group), 8, 32)
            place += 36
        struct.pack_into(">II", self.data, place, *FREE_LIST)
        self.block(group, BNO, (b"ABTB", b"AB3B"), 0, b"", 0)
        self.block(group, CNT, (b"ABTC", b"AB3C"), 0, b"", 0)
        self.chunks(group, [(CHUNK * BLOCK // INODE, 0)])

    def _header(
        self, at: int, words: Sequence[int], uuid: int, crc: int
    ) -> None:
        """Write a header of a group."""
        struct.pack_into(f">{len(words)}I", self.data, at, *words)
        self.data[at + uuid : at + uuid + 16] = UUID
        if self.has_crc:
            self._sealed.append(_Sealed(at, SECTOR, crc))

    def chunks(self, group: int, records: Sequence[tuple[int, int]]) -> None:
        """Write the inode tree: first inode and hole mask of each chunk."""
        body = b"".join(
            struct.pack(">IHBBQ", first, holes, 64, 64, NO_LONG_BLOCK)
            for first, holes in records
        )
        self.block(group, INO, (b"IABT", b"IAB3"), 0, body, len(records))

    def block(
        self,
        group: int,
        block: int,
        magic: tuple[bytes, bytes],
        level: int,
        body: bytes,
        count: int,
    ) -> None:
        """Write a block of a tree of a group."""
        head = struct.pack(">HHII", level, count, NO_BLOCK, NO_BLOCK)
        linear = group * GROUP_BLOCKS + block
        if self.has_crc:
            head += struct.pack(">QQ16sII", 2 * linear, 0, UUID, group, 0)
        self._tree_block(linear, magic[self.has_crc] + head + body, 52)

    def long_block(
        self, linear: int, level: int, body: bytes, count: int
    ) -> None:
        """Write a block of an extent tree."""
        magic = (b"BMAP", b"BMA3")[self.has_crc]
        head = struct.pack(">HHQQ", level, count, NO_LONG_BLOCK, NO_LONG_BLOCK)
        if self.has_crc:
            head += struct.pack(">QQ16sQII", 2 * linear, 0, UUID, 0, 0, 0)
        self._tree_block(linear, magic + head + body, 64)

    def _tree_block(self, linear: int, content: bytes, crc: int) -> None:
        assert len(content) <= BLOCK
        at = linear * BLOCK
        self.data[at : at + BLOCK] = content.ljust(BLOCK, b"\0")
        if self.has_crc:
            self._sealed.append(_Sealed(at, BLOCK, crc))

    def pointers(
        self, blocks: Sequence[int], key_bytes: int, form: str
    ) -> bytes:
        """Return the body of a node: keys, then pointers where they belong."""
        long = form == "Q"
        head = (72 if long else 56) if self.has_crc else (24 if long else 16)
        size = struct.calcsize(form)
        room = (BLOCK - head) // (key_bytes + size)
        body = struct.pack(f">{len(blocks)}{form}", *blocks)
        return bytes(room * key_bytes) + body

    def inode(
        self,
        index: int,
        mode: int,
        form: int,
        fork: bytes = b"",
        *,
        group: int = 0,
        extents: int | None = None,
        attributes: tuple[int, int, bytes] = (0, LOCAL, b""),
        attribute_extents: int = 0,
        flags2: int = 0,
    ) -> int:
        """Put an inode to use; return its number.

        ``attributes`` is where that fork begins (in 8 bytes), its form, and
        its content.
        """
        count = len(fork) // 16 if extents is None else extents
        first = CHUNK * BLOCK // INODE
        number = group << GROUP_LOG + 1 | first + index
        at = group * GROUP_BYTES + CHUNK * BLOCK + index * INODE
        forkoff, aform, afork = attributes
        core = bytearray(self.core)
        struct.pack_into(
            ">HHBB", core, 0, 0x494E, mode, 3 if self.has_crc else 2, form
        )
        if flags2 & LARGE_COUNTS:
            struct.pack_into(">Q", core, 24, count)
            struct.pack_into(">I", core, 76, attribute_extents)
        else:
            struct.pack_into(">IH", core, 76, count, attribute_extents)
        struct.pack_into(">BB", core, 82, forkoff, aform)
        if self.has_crc:
            struct.pack_into(">Q", core, 120, flags2)
            struct.pack_into(">Q16s", core, 152, number, UUID)
        content = bytes(core) + fork
        if forkoff:
            content = content.ljust(self.core + forkoff * 8, b"\0") + afork
        assert len(content) <= INODE
        self.data[at : at + INODE] = content.ljust(INODE, b"\0")
        if self.has_crc:
            self._sealed.append(_Sealed(at, INODE, 100))
        self._use(group, index)
        return number

    def _use(self, group: int, index: int) -> None:
        """Clear an inode's bit in the mask of the first chunk."""
        head = 56 if self.has_crc else 16
        at = group * GROUP_BYTES + INO * BLOCK + head + 8
        (mask,) = struct.unpack_from(">Q", self.data, at)
        struct.pack_into(">Q", self.data, at, mask & ~(1 << index))

    def build(self) -> bytearray:
        """Compute all checksums and return the volume."""
        for offset, size, place in self._sealed:
            at = offset + place
            self.data[at : at + 4] = bytes(4)
            value = crc32c(START, bytes(self.data[offset : offset + size]))
            struct.pack_into("<I", self.data, at, value ^ START)
        return self.data

    def source(self) -> MemorySource:
        """Return the volume as a source."""
        return MemorySource(self.build())
