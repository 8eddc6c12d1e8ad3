"""The mark: what LBA 0 of a sealed disk holds.

A valid MBR whose one entry of type DA covers the disk (so that every tool
calls it raw data and none calls it corrupt), a boot stub that says what this
disk is, and the header proper at byte 256::

    0    boot stub and its message (the VM's UUID in text), zero padded
    256  magic 8, format version 2, mandatory feature flags 4, seal context 60
    330  level 1, flags 1, disk size 8, sector size 4
    344  embedded manifest: offset 8, length 4, SHA-256 32
    388  MAC 32 (HMAC-SHA256 over the sector with these bytes zero)
    440  zero, partition table (446), 55AA (510)

Marked or not is a fact read from the disk: either the magic or the stub makes
it marked, and then all of it must be right; a damaged mark is an error, never
"plain". All integers are big endian but those of the partition table.

Source:
    DESIGN 3.4; partition table: UEFI 2.10 section 5.2.1.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from vmsec.crypto.context import SealContext
from vmsec.errors import HeaderError, IntegrityError
from vmsec.ondisk.extent import Level
from vmsec.units import GIB

HEADER_BYTES = 512
MAGIC = b"\x93vmsec\r\n"
FORMAT_VERSION = 1
KNOWN_FEATURES = 0
"""Mandatory feature flags that this version understands: none yet."""

# Assembled from bootstub.asm (a test does it again and compares).
STUB = bytes.fromhex(
    "fa31c08ed88ed0bc007cfcea107c0000be417cac84c07409b40ebb0700cd10eb"
    "f2be417cac84c0741588c4b9ffffbafd03eca820e1fb88e0baf803eeebe6f4ebfd"
)
_MESSAGE = (
    "\r\nThis disk is sealed by vmsec, VM {vm};\r\n"
    "it starts only in its own cloud.\r\n"
)
_PLACE = 256
_FIXED = struct.Struct(">8sHI60sBBQIQI32s")
_MAC_AT = 388
_MAC_BYTES = 32
_TABLE_AT = 446
_ENTRY = struct.Struct("<B3sB3sII")
_TYPE_NON_FS = 0xDA
_CHS_MAX = b"\xfe\xff\xff"
_LEVELS = {Level.BOOT: 1, Level.METADATA: 2}
MAX_COUNTER = 1 << 31
"""Generations and key versions: a seal each second for 68 years. A guest can
write any mark into its own disk, and what callers remember of it is raised."""

MAX_MANIFEST_BYTES = GIB
"""A manifest takes about 45 bytes an extent: 24 million extents."""


class EmbeddedManifest(NamedTuple):
    """Where the disk itself keeps the manifest.

    ``offset`` and ``length`` are bytes; ``length`` is zero where no run of
    zero sectors outside every partition could hold it; ``digest`` is the
    SHA-256 of the blob.
    """

    offset: int
    length: int
    digest: bytes


NOT_EMBEDDED = EmbeddedManifest(0, 0, bytes(32))


class SealHeader(NamedTuple):
    """The fields of the mark.

    ``disk_bytes`` is the disk's size when it was sealed; ``sector_bytes`` its
    logical sector size (512 or 4096).
    """

    context: SealContext
    level: Level
    disk_bytes: int
    sector_bytes: int
    manifest: EmbeddedManifest

    def pack(self, mac_key: bytes) -> bytes:
        """Return LBA 0 of the sealed disk, ``sector_bytes`` long.

        Args:
            mac_key: 32 bytes, the header key of this seal.
        """
        sector = bytearray(self._unsigned())
        mac = hmac.digest(mac_key, bytes(sector), hashlib.sha256)
        sector[_MAC_AT : _MAC_AT + _MAC_BYTES] = mac
        return bytes(sector)

    def _unsigned(self) -> bytes:
        sector = bytearray(self.sector_bytes)
        text = _MESSAGE.format(vm=self.context.vm).encode()
        stub = STUB + text
        sector[: len(stub)] = stub
        _FIXED.pack_into(
            sector,
            _PLACE,
            MAGIC,
            FORMAT_VERSION,
            KNOWN_FEATURES,
            self.context.pack(),
            _LEVELS[self.level],
            0,
            self.disk_bytes,
            self.sector_bytes,
            *self.manifest,
        )
        sectors = min(self.disk_bytes // self.sector_bytes - 1, 0xFFFFFFFF)
        entry = (0, b"\0\2\0", _TYPE_NON_FS, _CHS_MAX, 1, sectors)
        _ENTRY.pack_into(sector, _TABLE_AT, *entry)
        sector[510:512] = b"\x55\xaa"
        return bytes(sector)


def is_marked(lba0: bytes) -> bool:
    """Whether LBA 0 bears vmsec's mark, be it whole or damaged.

    Two independent signs, so that damage to one still leaves the other.
    """
    return lba0[_PLACE : _PLACE + 8] == MAGIC or lba0[: len(STUB)] == STUB


def parse_header(lba0: bytes, *, target: str) -> SealHeader:
    """Read the mark without the key; its MAC is not checked.

    Everything that has one right form is compared with that form: the stub,
    its message, the partition table and the padding.

    Args:
        lba0: The first logical sector of a disk that :func:`is_marked`.
        target: The image's name, for the error.

    Raises:
        HeaderError: Damaged, or of a version or feature not understood.
    """
    fields = _FIXED.unpack_from(lba0, _PLACE)
    magic, version, features, packed, level, zero, size, sector = fields[:8]
    if magic != MAGIC:
        raise _damaged(target, "its magic is wrong")
    if version != FORMAT_VERSION or features & ~KNOWN_FEATURES:
        raise HeaderError(
            f"{target}: sealed by a newer vmsec (format {version}, features "
            f"{features:#x}); use that version"
        )
    levels = {number: name for name, number in _LEVELS.items()}
    if level not in levels or zero or sector not in (512, 4096):
        raise _damaged(target, "a field is out of range")
    header = SealHeader(
        SealContext.unpack(packed),
        levels[level],
        size,
        sector,
        EmbeddedManifest(*fields[8:]),
    )
    _require_sane(header, lba0, target)
    return header


def _require_sane(header: SealHeader, lba0: bytes, target: str) -> None:
    context, manifest = header.context, header.manifest
    if not (
        0 < context.generation <= MAX_COUNTER
        and 0 < context.key_version <= MAX_COUNTER
    ):
        raise _damaged(target, "a counter is out of range")
    if (
        manifest.length > MAX_MANIFEST_BYTES
        or manifest.offset + manifest.length > header.disk_bytes
        or header.disk_bytes < header.sector_bytes
    ):
        raise _damaged(target, "its manifest lies outside the disk")
    mac = slice(_MAC_AT, _MAC_AT + _MAC_BYTES)
    unsigned = bytearray(lba0[: header.sector_bytes])
    unsigned[mac] = bytes(_MAC_BYTES)
    if bytes(unsigned) != header._unsigned():  # noqa: SLF001 - same module
        raise _damaged(target, "its fixed parts were changed")


def _damaged(target: str, why: str) -> HeaderError:
    return HeaderError(
        f"{target}: the seal header is damaged ({why}); the disk stays "
        "sealed; restore LBA 0 from a copy"
    )


def verify_header(
    lba0: bytes, header: SealHeader, mac_key: bytes, *, target: str
) -> None:
    """Check the MAC of a parsed header.

    Raises:
        IntegrityError: Wrong key, or the header was changed.
    """
    if not hmac.compare_digest(
        header.pack(mac_key), lba0[: header.sector_bytes]
    ):
        raise IntegrityError(target)
