"""Partition tables and FAT volumes built by hand, byte by byte.

Written from the specifications and apart from the parsers, so that a field
can be set to anything. Knows no pytest.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

MIB = 1 << 20
LINUX_DATA = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
DISK_GUID = UUID("00000000-0000-4000-8000-0000000000d1")


class Record(NamedTuple):
    """A record of an MBR."""

    type_id: int
    first_lba: int
    sectors: int
    boot_indicator: int = 0


def mbr_sector(*records: Record, signature: bytes = b"\x55\xaa") -> bytes:
    """Return 512 bytes with up to four records."""
    table = b"".join(
        struct.pack("<B3xB3xII", r.boot_indicator, r.type_id, *r[1:3])
        for r in records
    )
    return bytes(446) + table.ljust(64, b"\0") + signature


def msdos_disk(
    sectors: int, boot: bytes, chain: dict[int, bytes] | None = None
) -> bytearray:
    """Return a disk with an MBR and, by LBA, other sectors."""
    disk = bytearray(sectors * 512)
    for lba, content in {0: boot, **(chain or {})}.items():
        disk[lba * 512 : lba * 512 + len(content)] = content
    return disk


def extended_disk(logicals: int) -> bytearray:
    """Return 8 MiB: extended partition 1 at LBA 64, logicals of 16 sectors."""
    first, step = 64, 32
    chain = {}
    for n in range(logicals):
        data = Record(0x83, 8, 16)
        link = Record(0x05, (n + 1) * step, step)
        records = (data, link) if n + 1 < logicals else (data,)
        chain[first + n * step] = mbr_sector(*records)
    return msdos_disk(16384, mbr_sector(Record(0x0F, first, 16000)), chain)


@dataclass
class Table:
    """A GPT to be written; every field may be spoiled before or after.

    ``partitions`` are inclusive ranges of LBAs. Fields in ``primary`` and
    ``backup`` replace those of that header before it is summed.
    """

    sectors: int = 4096
    sector_bytes: int = 512
    partitions: list[tuple[int, int]] = field(
        default_factory=lambda: [(64, 127), (256, 511)]
    )
    entry_bytes: int = 128
    entry_count: int = 128
    alternate_lba: int = 0
    mbr: bytes = b""
    primary: dict[str, int] = field(default_factory=dict)
    backup: dict[str, int] = field(default_factory=dict)

    @property
    def array_sectors(self) -> int:
        """Length of the entry array in sectors."""
        return -(-self.entry_bytes * self.entry_count // self.sector_bytes)

    @property
    def last_lba(self) -> int:
        """Where the backup header lies."""
        return self.alternate_lba or self.sectors - 1

    def array(self) -> bytes:
        """Return the entry array."""
        entries = b"".join(
            struct.pack(
                "<16s16sQQQ72s",
                LINUX_DATA.bytes_le,
                UUID(int=n + 1).bytes_le,
                first,
                last,
                0,
                b"",
            ).ljust(self.entry_bytes, b"\0")
            for n, (first, last) in enumerate(self.partitions)
        )
        return entries.ljust(self.entry_bytes * self.entry_count, b"\0")

    def header(self, *, is_backup: bool) -> bytes:
        """Return one header sector with its checksums."""
        length = self.array_sectors
        fields = {
            "revision": 0x00010000,
            "header_bytes": 92,
            "my_lba": self.last_lba if is_backup else 1,
            "alternate_lba": 1 if is_backup else self.last_lba,
            "first_usable": 2 + length,
            "last_usable": self.last_lba - length - 1,
            "entries_lba": self.last_lba - length if is_backup else 2,
            "entry_count": self.entry_count,
            "entry_bytes": self.entry_bytes,
            "entries_crc": zlib.crc32(self.array()),
        }
        fields |= self.backup if is_backup else self.primary
        values = list(fields.values())
        tail = struct.pack(
            "<QQQQ16sQIII", *values[2:6], DISK_GUID.bytes_le, *values[6:]
        )
        start = struct.pack("<8sII", b"EFI PART", *values[:2])
        covered = (start + bytes(8) + tail).ljust(self.sector_bytes, b"\0")
        crc = zlib.crc32(covered[: fields["header_bytes"]])
        whole = start + struct.pack("<II", crc, 0) + tail
        return whole.ljust(self.sector_bytes, b"\0")

    def build(self) -> bytearray:
        """Return the whole disk."""
        disk = bytearray(self.sectors * self.sector_bytes)
        protective = mbr_sector(Record(0xEE, 1, self.sectors - 1))
        length = self.array_sectors
        parts = {
            0: self.mbr or protective,
            1: self.header(is_backup=False),
            2: self.array(),
            self.last_lba - length: self.array(),
            self.last_lba: self.header(is_backup=True),
        }
        for lba, content in parts.items():
            at = lba * self.sector_bytes
            disk[at : at + len(content)] = content
        return disk


@dataclass
class FATVolume:
    """A FAT16 or FAT32 volume with clusters of one sector.

    ``chains`` gives a next cluster for each cluster; ``directories`` the
    content of a directory's cluster (0 is the fixed root of FAT16).
    """

    bits: int = 32
    clusters: int = 70000
    reserved: int = 32
    fats: int = 2
    chains: dict[int, int] = field(default_factory=dict)
    directories: dict[int, bytes] = field(default_factory=dict)
    boot: dict[int, bytes] = field(default_factory=dict)

    @property
    def fat_sectors(self) -> int:
        """Length of one table in sectors."""
        return -(-(self.clusters + 2) * self.bits // 8 // 512)

    @property
    def root_sectors(self) -> int:
        """Length of the fixed root in sectors."""
        return 0 if self.bits == 32 else 4

    @property
    def data_sector(self) -> int:
        """Where cluster 2 begins."""
        return self.reserved + self.fats * self.fat_sectors + self.root_sectors

    def _boot_sector(self) -> bytes:
        total = self.data_sector + self.clusters
        wide = self.bits == 32
        sector = bytearray(512)
        sector[0:11] = b"\xeb\x58\x90mkfs.fat"
        struct.pack_into(
            "<HBHBHHBHHHII", sector, 11, 512, 1, self.reserved, self.fats,
            0 if wide else 64, 0, 0xF8, 0 if wide else self.fat_sectors,
            32, 2, 0, total,
        )  # fmt: skip
        if wide:
            struct.pack_into(
                "<IHHIHH", sector, 36, self.fat_sectors, 0, 0, 2, 1, 6
            )
        sector[510:512] = b"\x55\xaa"
        for at, value in self.boot.items():
            sector[at : at + len(value)] = value
        return bytes(sector)

    def build(self) -> bytearray:
        """Return the whole volume."""
        volume = bytearray((self.data_sector + self.clusters) * 512)
        volume[:512] = self._boot_sector()
        width = self.bits // 8
        end = (1 << self.bits) - 1 if self.bits == 16 else 0x0FFFFFFF
        for fat in range(self.fats):
            start = (self.reserved + fat * self.fat_sectors) * 512
            for cluster, following in {2: end, **self.chains}.items():
                at = start + cluster * width
                volume[at : at + width] = following.to_bytes(width, "little")
        for cluster, content in self.directories.items():
            sector = self.data_sector + cluster - 2
            if cluster == 0:
                sector = self.data_sector - self.root_sectors
            volume[sector * 512 : sector * 512 + len(content)] = content
        return volume


def short_entry(
    name: bytes, cluster: int = 0, *, attributes: int = 0x10
) -> bytes:
    """Return a directory entry; a subdirectory unless told otherwise."""
    return struct.pack(
        "<11sB8xHHHHI", name.ljust(11), attributes, cluster >> 16, 0, 0,
        cluster & 0xFFFF, 0,
    )  # fmt: skip
