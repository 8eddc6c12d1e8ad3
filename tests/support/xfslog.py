"""Logs of XFS made by hand: records, operations and items."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.support.xfsvolume import BLOCK, CHUNK, INODE, UUID, XFSVolume
from vmsec.ondisk.crc32c import START, crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR = 512
LOG_START, LOG_BLOCKS = 128, 64
SECTORS = LOG_BLOCKS * BLOCK // SECTOR
START_FLAG, COMMIT, CONTINUE, WAS_CONTINUED, END, UNMOUNT = (
    1 << bit for bit in range(6)
)
BUFFER, INODE_ITEM = 0x123C, 0x123B
CANCEL, INODE_BUFFER = 2, 1
CORE, DATA_EXTENTS, DATA_ROOT = 0x1, 0x4, 0x8
ATTRIBUTE_EXTENTS = 0x80
TRANSACTION = struct.pack("<IIII", 0x5452414E, 40, 0, 0)


def operation(flags: int, data: bytes = b"", number: int = 7) -> bytes:
    """Return one operation of a transaction."""
    return struct.pack(">IIBBH", number, len(data), 0x69, flags, 0) + data


def transaction(
    *items: Sequence[bytes], number: int = 7, commit: bool = True
) -> list[bytes]:
    """Return the operations of a transaction with items."""
    regions = [TRANSACTION, *(region for item in items for region in item)]
    return [
        operation(START_FLAG, number=number),
        *(operation(0, region, number) for region in regions),
        *([operation(COMMIT, number=number)] if commit else []),
    ]


def buffer_item(
    sector: int,
    sectors: int,
    chunks: Sequence[int],
    *regions: bytes,
    flags: int = 0,
    order: str = "<",
) -> list[bytes]:
    """Return the item of a buffer: which chunks of 128 bytes, and them."""
    words = [0] * 9
    for chunk in chunks:
        words[chunk // 32] |= 1 << chunk % 32
    head = struct.pack(
        f"{order}HHHHqI9I",
        *(BUFFER, len(regions) + 1, flags, sectors, sector, len(words)),
        *words,
    )
    return [head, *regions]


def inode_item(
    volume: XFSVolume,
    index: int,
    form: int,
    fork: bytes,
    *,
    mode: int = 0x4000,
    fields: int = DATA_EXTENTS,
    extents: int = 1,
    order: str = "<",
    offset: int | None = None,
) -> list[bytes]:
    """Return the item of an inode of the first chunk of group 0."""
    core = bytearray(176 if volume.has_crc else 96)
    version = 3 if volume.has_crc else 2
    struct.pack_into(f"{order}HHBB", core, 0, 0x494E, mode, version, form)
    struct.pack_into(f"{order}I", core, 76, extents)
    if volume.has_crc:
        number = CHUNK * BLOCK // INODE + index
        struct.pack_into(f"{order}Q", core, 152, number)
        core[160:176] = UUID
    sector = CHUNK * BLOCK // SECTOR
    offset = index * INODE if offset is None else offset
    head = struct.pack(
        f"{order}HHIHHIQ16xqii",
        *(INODE_ITEM, 3, CORE | fields, 0, len(fork), 0, 0),
        *(sector, 64 * INODE // SECTOR, offset),
    )
    return [head, bytes(core), fork]


class LogWriter:
    """Writes records into the internal log of a volume, from a place on.

    Args:
        volume: Made with ``sb_logstart`` and ``sb_logblocks``.
        place: The 512-byte block to begin with; all before it gets stamped
            with ``cycle``, all behind it with the cycle before.
    """

    def __init__(
        self, volume: XFSVolume, place: int = 0, cycle: int = 1
    ) -> None:
        self._volume, self.place, self.cycle = volume, place, cycle
        for sector in range(SECTORS):
            old = cycle if sector < place else cycle - 1
            self._put(sector, struct.pack(">I", old))

    def write(
        self,
        operations: Sequence[bytes],
        *,
        tail: int,
        form: int = 1,
        uuid: bytes = UUID,
        damage: int = 0,
    ) -> int:
        """Write one record; return its place.

        ``damage`` flips that many bits of its checksum.
        """
        place, body = self.place, b"".join(operations)
        length = -(-len(body) // SECTOR) * SECTOR
        data = bytearray(body.ljust(length, b"\xee"))
        saved = [data[at : at + 4] for at in range(0, length, SECTOR)]
        assert len(saved) <= 64
        header = bytearray(SECTOR)
        struct.pack_into(
            ">IIIIQQIII",
            header,
            0,
            *(0xFEEDBABE, self.cycle, 2, length),
            *(self.cycle << 32 | place, self.cycle << 32 | tail),
            *(0, 0, len(operations)),
        )
        header[44 : 44 + 4 * len(saved)] = b"".join(saved)
        struct.pack_into(">I16sI", header, 300, form, uuid, 32768)
        for index in range(len(saved)):
            cycle = self.cycle + (place + 1 + index >= SECTORS)
            struct.pack_into(">I", data, index * SECTOR, cycle)
        value = crc32c(START, bytes(header[:328]) + data) ^ START
        struct.pack_into("<I", header, 32, value ^ damage)
        for index, at in enumerate(range(0, length + SECTOR, SECTOR)):
            content = bytes((header + data)[at : at + SECTOR])
            self._put((place + index) % SECTORS, content)
        end = place + 1 + len(saved)
        self.cycle += end >= SECTORS
        self.place = end % SECTORS
        return place

    def _put(self, sector: int, content: bytes) -> None:
        at = LOG_START * BLOCK + sector * SECTOR
        self._volume.data[at : at + len(content)] = content
