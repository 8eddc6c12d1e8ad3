"""NTFS volumes made by hand, record by record, honest or hostile.

Written from the on-disk format and not from :mod:`vmsec.ondisk.ntfs`, so that
a mistake there is not repeated here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

STANDARD, LIST, NAME, SECURITY = 0x10, 0x20, 0x30, 0x50
VOLUME, DATA, INDEX, BITMAP = 0x70, 0x80, 0xA0, 0xB0
REPARSE, EA, STREAM = 0xC0, 0xE0, 0x100
Runs = list[tuple[int | None, int]]


class SparseSource:
    """A disk of any size; what was not written is zero."""

    def __init__(self, size: int, sector: int = 512) -> None:
        self.size_bytes, self.sector_bytes = size, sector
        self.pieces: dict[int, bytes] = {}

    def write(self, offset: int, data: bytes) -> None:
        self.pieces[offset] = data

    def read_at(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size_bytes
        result = bytearray(length)
        for start, data in self.pieces.items():
            first = max(start, offset)
            last = min(start + len(data), offset + length)
            if first < last:
                result[first - offset : last - offset] = data[
                    first - start : last - start
                ]
        return bytes(result)


def signed(value: int) -> bytes:
    """Shortest little-endian two's complement."""
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def mapping_pairs(runs: Runs) -> bytes:
    """Encode runs of (LCN or None for a hole, clusters)."""
    result, before = b"", 0
    for lcn, length in runs:
        count = signed(length)
        distance = b"" if lcn is None else signed(lcn - before)
        before = before if lcn is None else lcn
        result += bytes([len(distance) << 4 | len(count)]) + count + distance
    return result + b"\0"


def padded(data: bytes, grain: int = 8) -> bytes:
    return data + bytes(-len(data) % grain)


def resident(kind: int, value: bytes, name: str = "") -> bytes:
    text = padded(name.encode("utf-16le"))
    start = 0x18 + len(text)
    head = struct.pack("<IIBBHHH", kind, 0, 0, len(name), 0x18, 0, 0)
    head += struct.pack("<IHBB", len(value), start, 0, 0)
    whole = padded(head + text + value)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:]


def away(
    kind: int,
    runs: Runs | bytes,
    name: str = "",
    lowest: int = 0,
    size: int | None = None,
    highest: int | None = None,
) -> bytes:
    """A non-resident attribute; ``runs`` as bytes are taken as they are."""
    total = 0
    if not isinstance(runs, bytes):
        total = sum(length for _, length in runs)
        runs = mapping_pairs(runs)
    if highest is None:
        highest = lowest + total - 1
    size = total * 4096 if size is None else size
    text = padded(name.encode("utf-16le"))
    start = 0x40 + len(text)
    head = struct.pack("<IIBBHHH", kind, 0, 1, len(name), 0x40, 0, 0)
    head += struct.pack("<qqHHI", lowest, highest, start, 0, 0)
    head += struct.pack("<QQQ", total * 4096, size, size)
    whole = padded(head + text + runs)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:]


def file_name(parent: int, name: str) -> bytes:
    value = struct.pack("<Q", parent | 1 << 48) + bytes(56)
    value += bytes([len(name), 1]) + name.encode("utf-16le")
    return resident(NAME, value)


def standard(flags: int = 0) -> bytes:
    return resident(STANDARD, bytes(32) + struct.pack("<I", flags) + bytes(12))


def list_entry(kind: int, lowest: int, record: int, name: str = "") -> bytes:
    text = name.encode("utf-16le")
    length = len(padded(bytes(0x1A) + text))
    head = struct.pack("<IHBB", kind, length, len(name), 0x1A)
    head += struct.pack("<qQH", lowest, record | 1 << 48, 0)
    return padded(head + text)


def record(
    *attributes: bytes,
    base: int = 0,
    flags: int = 1,
    size: int = 1024,
    fixups_at: int = 0x30,
    magic: bytes = b"FILE",
) -> bytes:
    """A FILE record with its update sequence applied."""
    strides = size // 512
    start = -(-(fixups_at + 2 * (strides + 1)) // 8) * 8
    body = b"".join(attributes) + b"\xff\xff\xff\xff\0\0\0\0"
    used = start + len(body)
    head = magic + struct.pack("<HHQHH", fixups_at, strides + 1, 0, 1, 1)
    head += struct.pack("<HHIIQ", start, flags, used, size, base)
    raw = bytearray((head.ljust(start, b"\0") + body).ljust(size, b"\0"))
    assert len(raw) == size, "the record is too full"
    raw[fixups_at : fixups_at + 2] = b"\x07\x00"
    for index in range(strides):
        end = 512 * (index + 1)
        place = fixups_at + 2 + 2 * index
        raw[place : place + 2] = raw[end - 2 : end]
        raw[end - 2 : end] = b"\x07\x00"
    return bytes(raw)


def extension_of(number: int) -> int:
    """The base reference of an extension record."""
    return number | 1 << 48


@dataclass
class Volume:
    """A volume of 4 KiB clusters with its MFT at cluster 4.

    ``records`` are laid over the default ones; ``mft_runs`` say where $MFT
    lies, ``mft_attributes`` replaces the attributes of record 0.
    """

    clusters: int = 4096
    cluster: int = 4096
    sector: int = 512
    sectors_per_cluster: int | None = None
    record_size: int = 1024
    record_code: int | None = None
    version: tuple[int, int] = (3, 1)
    volume_flags: int = 0
    mft_runs: Runs = field(default_factory=lambda: [(4, 16)])
    mft_attributes: list[bytes] | None = None
    records: dict[int, bytes] = field(default_factory=dict)
    mirror_lcn: int = 2
    extra_bytes: int = 512

    def boot(self) -> bytes:
        spc = self.sectors_per_cluster or self.cluster // self.sector
        code = self.record_code
        if code is None:
            code = 256 - (self.record_size.bit_length() - 1)
        raw = bytearray(512)
        raw[:11] = b"\xeb\x52\x90NTFS    "
        struct.pack_into("<HB", raw, 11, self.sector, spc)
        total = self.clusters * self.cluster // self.sector
        lcn = self.mft_runs[0][0]
        struct.pack_into("<QQQB", raw, 40, total, lcn, self.mirror_lcn, code)
        raw[510:] = b"\x55\xaa"
        return bytes(raw)

    def default_records(self) -> dict[int, bytes]:
        total = sum(length for _, length in self.mft_runs)
        written = total * self.cluster
        mft = self.mft_attributes or [
            away(DATA, self.mft_runs, size=written),
            away(BITMAP, [(3, 1)]),
        ]
        info = bytes(8) + bytes(self.version)
        info += struct.pack("<H", self.volume_flags)
        system = {
            0: mft,
            1: [away(DATA, [(self.mirror_lcn, 1)])],
            2: [away(DATA, [(100, 64)])],
            3: [resident(VOLUME, info)],
            4: [away(DATA, [(170, 1)])],
            5: [away(INDEX, [(171, 1)], "$I30")],
            6: [away(DATA, [(172, 1)])],
            7: [away(DATA, [(0, 2)])],
            9: [away(DATA, [(173, 64)], "$SDS"), away(INDEX, [(240, 1)])],
            10: [away(DATA, [(241, 32)])],
        }
        return {
            number: record(*attributes, size=self.record_size)
            for number, attributes in system.items()
        }

    def source(self) -> SparseSource:
        size = self.clusters * self.cluster + self.extra_bytes
        source = SparseSource(size, self.sector)
        source.write(0, self.boot())
        if self.extra_bytes:
            source.write(self.clusters * self.cluster, self.boot())
        for number, raw in (self.default_records() | self.records).items():
            for index in range(0, len(raw), 512):
                place = number * self.record_size + index
                source.write(self.place(place), raw[index : index + 512])
        return source

    def place(self, at: int) -> int:
        """Byte on the volume of a byte of $MFT."""
        for lcn, length in self.mft_runs:
            if at < length * self.cluster:
                assert lcn is not None
                return lcn * self.cluster + at
            at -= length * self.cluster
        raise AssertionError("outside $MFT")
