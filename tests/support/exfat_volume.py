"""exFAT volumes filled by hand: made here, or by mkfs.exfat before.

Written from the specification and apart from the parser. ``fsck.exfat`` and
The Sleuth Kit judge in the functional tests what is written here. Knows no
pytest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SECTOR = 512
END = 0xFFFFFFFF
UPCASE = b"".join(struct.pack("<H", n) for n in range(128))


def boot_checksum(region: bytes | bytearray) -> bytes:
    """The last sector of a boot region (3.4)."""
    total = 0
    for at, byte in enumerate(region):
        if at not in {106, 107, 112}:
            total = ((total << 31 | total >> 1) + byte) & 0xFFFFFFFF
    return struct.pack("<I", total) * (SECTOR // 4)


def set_checksum(entries: bytes) -> bytes:
    """An entry set with its checksum in place (6.3.3)."""
    total = 0
    for at, byte in enumerate(entries):
        if at not in {2, 3}:
            total = ((total << 15 | total >> 1) + byte) & 0xFFFF
    return entries[:2] + struct.pack("<H", total) + entries[4:]


def entry_set(
    name: str, first: int, length: int, *, folder: bool, flags: int
) -> bytes:
    """File, stream extension and file name entries (7.4, 7.6, 7.7)."""
    wide = name.encode("utf-16-le")
    digest = 0
    for byte in name.upper().encode("utf-16-le"):
        digest = ((digest << 15 | digest >> 1) + byte) & 0xFFFF
    parts = [wide[at : at + 30] for at in range(0, len(wide), 30)]
    stamp = (46 << 25 | 1 << 21 | 1 << 16).to_bytes(4, "little") * 3
    data = struct.pack(
        "<BBHHH12s12x", 0x85, 1 + len(parts), 0, 0x10 if folder else 0x20,
        0, stamp,
    )  # fmt: skip
    data += struct.pack(
        "<BBxBHHQ4xIQ", 0xC0, flags, len(name), digest, 0, length, first,
        length,
    )  # fmt: skip
    data += b"".join(b"\xc1\0" + part.ljust(30, b"\0") for part in parts)
    return set_checksum(data)


@dataclass
class Folder:
    """A directory: what it holds and where it lies."""

    name: str
    parent: Folder | None
    clusters: list[int]
    contiguous: bool = False
    content: bytes = b""


@dataclass
class ExFATVolume:
    """A volume of which every cluster is 4 KiB unless mkfs said otherwise."""

    data: bytearray
    folders: list[Folder] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        numbers: tuple[int, ...] = struct.unpack_from("<5I", self.data, 80)
        self.fat, self.heap = numbers[0] * SECTOR, numbers[2] * SECTOR
        self.clusters, root = numbers[3:]
        self.cluster_bytes = SECTOR << self.data[109]
        self.root = Folder("", None, [root])
        self.folders.append(self.root)
        start = self.offset(root)
        whole = bytes(self.data[start : start + self.cluster_bytes])
        end = next(n for n in range(0, len(whole), 32) if not whole[n])
        self.root.content = whole[:end]
        self.bitmap = self.offset(self._entry(0x81)[0])
        self.used = {
            n + 2
            for n in range(self.clusters)
            if self.data[self.bitmap + n // 8] >> n % 8 & 1
        }

    def _entry(self, kind: int) -> tuple[int, int]:
        content = self.root.content
        at = next(n for n in range(0, 999, 32) if content[n] == kind)
        first, length = struct.unpack_from("<IQ", content, at + 20)
        return int(first), int(length)

    @classmethod
    def blank(cls, clusters: int = 256) -> ExFATVolume:
        """A volume without files: bitmap, up-case table and root."""
        heap = 128
        data = bytearray((heap + clusters * 8) * SECTOR)
        fat_sectors = -(-(clusters + 2) * 4 // SECTOR)
        struct.pack_into(
            "<3s8s53xQQIIIIIIHHBBBBB", data, 0, b"\xeb\x76\x90", b"EXFAT   ",
            0, len(data) // SECTOR, 24, fat_sectors, heap, clusters, 4, 7,
            0x100, 0, 9, 3, 1, 0x80, 0xFF,
        )  # fmt: skip
        data[510:512] = b"\x55\xaa"
        for sector in range(1, 9):
            data[sector * SECTOR + 508 : sector * SECTOR + 512] = (
                b"\0\0\x55\xaa"
            )
        struct.pack_into(
            "<5I", data, 24 * SECTOR, 0xFFFFFFF8, END, END, END, END
        )
        start = heap * SECTOR
        data[start] = 7
        data[start + 4096 : start + 4096 + len(UPCASE)] = UPCASE
        root = struct.pack("<B19xIQ", 0x81, 2, -(-clusters // 8))
        root += struct.pack("<B19xIQ", 0x82, 3, len(UPCASE))
        data[start + 8192 : start + 8192 + 64] = root
        volume = cls(data)
        volume.sign()
        return volume

    def offset(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.heap + (cluster - 2) * self.cluster_bytes

    def sign(self) -> None:
        """Write the checksum and the backup of the boot region."""
        size = 11 * SECTOR
        self.data[size : size + SECTOR] = boot_checksum(self.data[:size])
        self.data[size + SECTOR : 2 * (size + SECTOR)] = self.data[
            : size + SECTOR
        ]

    def link(self, clusters: list[int], *, chained: bool = True) -> list[int]:
        """Allocate clusters in the bitmap and, if chained, in the table."""
        for here, there in zip(clusters, [*clusters[1:], END], strict=True):
            self.used.add(here)
            at = here - 2
            self.data[self.bitmap + at // 8] |= 1 << at % 8
            if chained:
                struct.pack_into("<I", self.data, self.fat + here * 4, there)
        return clusters

    def take(self, count: int, *, step: int = 1) -> list[int]:
        """The first free clusters that are ``step`` apart."""
        first = next(
            n
            for n in range(2, self.clusters)
            if not self.used & set(range(n, n + count * step, step))
        )
        return list(range(first, first + count * step, step))

    def mkdir(
        self, name: str, parent: Folder | None = None, *, count: int = 1,
        contiguous: bool = False,
    ) -> Folder:  # fmt: skip
        """Add a directory of some clusters, scattered unless contiguous."""
        step = 1 if contiguous else 3
        clusters = self.take(count, step=step)
        self.link(clusters, chained=not contiguous)
        above = parent or self.root
        folder = Folder(name, above, clusters, contiguous)
        self.folders.append(folder)
        above.content += entry_set(
            name, clusters[0], count * self.cluster_bytes, folder=True,
            flags=3 if contiguous else 1,
        )  # fmt: skip
        return folder

    def write(self, name: str, body: bytes, parent: Folder) -> list[int]:
        """Add a file in one run of clusters."""
        clusters = self.take(-(-len(body) // self.cluster_bytes))
        self.link(clusters, chained=False)
        start = self.offset(clusters[0])
        self.data[start : start + len(body)] = body
        parent.content += entry_set(
            name, clusters[0], len(body), folder=False, flags=3
        )
        return clusters

    def build(self) -> bytearray:
        """Write all directories; return the volume."""
        for folder in self.folders:
            size = self.cluster_bytes
            assert len(folder.content) <= size * len(folder.clusters)
            for n, cluster in enumerate(folder.clusters):
                part = folder.content[n * size : (n + 1) * size]
                start = self.offset(cluster)
                self.data[start : start + size] = part.ljust(size, b"\0")
        return self.data
