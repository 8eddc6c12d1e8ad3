"""The manifest: what was sealed, and all that unsealing needs but the key.

A *blob* is its stored form, self-contained: a clear preamble (magic, the seal
context, the disk's size) and AES-256-GCM ciphertext over a deterministic
encoding, the preamble being the AAD. A blob lies in the disk itself where it
fits, at the node and at the KMC; any one of them and the key unseal the disk.

For every extent it holds the tag and a keyed digest of the plaintext, so that
each extent of a half-copied disk can be decided for itself.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from vmsec.crypto.aead import (
    MAX_EXTENT_BYTES,
    TAG_BYTES,
    TagError,
    decrypt_whole,
    encrypt_whole,
)
from vmsec.crypto.context import SealContext
from vmsec.encoding import decode, encode, field
from vmsec.errors import ManifestError, SchemaError
from vmsec.ondisk.extent import Extent, Level, MetadataClass
from vmsec.sealing.header import MAX_MANIFEST_BYTES
from vmsec.units import SEAL_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmsec.crypto.context import SealKeys

BLOB_MAGIC = b"\x93vmsecM\n"
_PREAMBLE = struct.Struct(">8sH60sQII")
_VERSION = 1
_WHAT = "manifest"
_MAX_PADDED_BYTES = MAX_MANIFEST_BYTES + SEAL_BLOCK_BYTES


class SealedExtent(NamedTuple):
    """One sealed extent: its place and class, its tag, the plain digest.

    ``tag`` and ``digest`` are 16 bytes each.
    """

    extent: Extent
    tag: bytes
    digest: bytes


class Manifest(NamedTuple):
    """What one seal did.

    ``lba0`` is the original first logical sector; ``embedded_at`` is the
    place of the embedded copy as (offset, padded length) in bytes, (0, 0) if
    there is none. ``extents`` are sorted, disjoint, at most 1 MiB each.
    """

    context: SealContext
    disk_bytes: int
    sector_bytes: int
    level: Level
    lba0: bytes
    embedded_at: tuple[int, int]
    extents: tuple[SealedExtent, ...]

    @property
    def sealed_bytes(self) -> int:
        """How many bytes of the disk are ciphertext (LBA 0 included)."""
        total = sum(item.extent.length for item in self.extents)
        return total + self.sector_bytes

    def places(self) -> list[Extent]:
        """Return the extents without their tags, in order."""
        return [item.extent for item in self.extents]

    def classes(self) -> dict[str, tuple[int, int]]:
        """Return extents and bytes per class, in order of display."""
        counts = {kind: [0, 0] for kind in MetadataClass}
        counts[MetadataClass.LBA0] = [1, self.sector_bytes]
        for item in self.extents:
            entry = counts[item.extent.kind]
            entry[0] += 1
            entry[1] += item.extent.length
        return {str(k): (v[0], v[1]) for k, v in counts.items() if v[0]}


class ManifestStore(Protocol):
    """Where copies of manifests are kept outside the disk."""

    def save(self, blob: bytes) -> None:
        """Keep a blob durably.

        Raises:
            ImageFullError: No space.
            ImageIOError: It could not be made durable.
        """
        ...

    def candidates(self) -> Iterable[bytes]:
        """Return blobs that may belong to the disk, newest first."""
        ...


def blob_bytes(extents: int) -> int:
    """Return an upper bound for a blob's length with so many extents."""
    return _PREAMBLE.size + 8192 + extents * (8 + 4 + 1 + 2 * TAG_BYTES)


def write_blob(manifest: Manifest, keys: SealKeys) -> bytes:
    """Encrypt a manifest; once per seal, since its key is used once.

    Raises:
        ManifestError: It is longer than any reader takes.
    """
    body = encode(_to_record(manifest))
    length = len(body) + TAG_BYTES
    if _PREAMBLE.size + length > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"the manifest of {len(manifest.extents)} extents is too long; "
            "seal the disk at the level 'boot'"
        )
    preamble = _preamble(manifest, length)
    return preamble + encrypt_whole(keys.manifest, body, preamble)


def _preamble(manifest: Manifest, length: int) -> bytes:
    return _PREAMBLE.pack(
        BLOB_MAGIC,
        _VERSION,
        manifest.context.pack(),
        manifest.disk_bytes,
        manifest.sector_bytes,
        length,
    )


def read_context(blob: bytes) -> SealContext:
    """Read whose manifest a blob is, without the key (not authenticated).

    Raises:
        ManifestError: Not a blob, cut short, or of a newer version.
    """
    if len(blob) < _PREAMBLE.size or blob[:8] != BLOB_MAGIC:
        raise ManifestError("not a manifest of vmsec")
    _, version, packed, _, _, length = _PREAMBLE.unpack_from(blob)
    if version != _VERSION:
        raise ManifestError(f"manifest version {version} is not understood")
    if not TAG_BYTES <= length <= MAX_MANIFEST_BYTES:
        raise ManifestError("the manifest's length is out of range")
    if len(blob) < _PREAMBLE.size + length:
        raise ManifestError("the manifest is cut short")
    return SealContext.unpack(packed)


def read_blob(blob: bytes, context: SealContext, keys: SealKeys) -> Manifest:
    """Decrypt and check a manifest; padding behind the blob is ignored.

    Raises:
        ManifestError: Of another seal, or not well formed.
        TagError: Wrong key or changed bytes.
    """
    if read_context(blob) != context:
        raise ManifestError("the manifest belongs to another seal")
    preamble = blob[: _PREAMBLE.size]
    size, sector, length = _PREAMBLE.unpack(preamble)[3:]
    body = decrypt_whole(
        keys.manifest,
        blob[_PREAMBLE.size : _PREAMBLE.size + length],
        preamble,
    )
    try:
        return _from_record(decode(body, what=_WHAT), context, size, sector)
    except SchemaError as err:
        raise ManifestError(f"the manifest is not well formed: {err}") from err


def _to_record(manifest: Manifest) -> dict[str, object]:
    kinds = list(MetadataClass)
    items = manifest.extents
    number = {kind: index for index, kind in enumerate(kinds)}
    column = np.array
    return {
        "level": str(manifest.level),
        "lba0": manifest.lba0,
        "embedded": list(manifest.embedded_at),
        "kinds": [str(kind) for kind in kinds],
        "offset": column([i.extent.offset for i in items], "<u8").tobytes(),
        "length": column([i.extent.length for i in items], "<u4").tobytes(),
        "kind": bytes(number[i.extent.kind] for i in items),
        "tag": b"".join(i.tag for i in items),
        "digest": b"".join(i.digest for i in items),
    }


def _from_record(
    record: object, context: SealContext, size: int, sector: int
) -> Manifest:
    def take(name: str, kind: type) -> bytes:
        value: bytes = field(record, name, kind, what=_WHAT)
        return value

    extents = _extents(
        take("offset", bytes), take("length", bytes), _kinds(record)
    )
    tags, digests = take("tag", bytes), take("digest", bytes)
    if len(tags) != len(digests) or len(tags) != TAG_BYTES * len(extents):
        raise SchemaError("columns of different length")
    place = _place(field(record, "embedded", list, what=_WHAT))
    level = field(record, "level", str, what=_WHAT)
    lba0 = take("lba0", bytes)
    if level not in set(Level) or len(lba0) != sector:
        raise SchemaError("a field is out of range")
    ranges = [(extent.offset, extent.end) for extent in extents]
    _require_disjoint(ranges, sector, size)
    if place[1]:
        ranges.append((place[0], sum(place)))
        _require_disjoint(sorted(ranges), sector, size)
    sealed = tuple(
        SealedExtent(extent, tags[i : i + 16], digests[i : i + 16])
        for extent, i in zip(extents, range(0, len(tags), 16), strict=True)
    )
    return Manifest(context, size, sector, Level(level), lba0, place, sealed)


def _place(numbers: list[object]) -> tuple[int, int]:
    match numbers:
        case [0, 0]:
            return 0, 0
        case [int(offset), int(length)] if 0 < length <= _MAX_PADDED_BYTES:
            return offset, length
    raise SchemaError("the place of the embedded copy is out of range")


def _kinds(record: object) -> list[MetadataClass]:
    names = field(record, "kinds", list, what=_WHAT)
    numbers = field(record, "kind", bytes, what=_WHAT)
    try:
        table = [MetadataClass(name) for name in names]
        return [table[number] for number in numbers]
    except (ValueError, IndexError) as err:
        raise SchemaError("an unknown class of metadata") from err


def _extents(
    offsets: bytes, lengths: bytes, kinds: list[MetadataClass]
) -> list[Extent]:
    if len(offsets) != 8 * len(kinds) or len(lengths) != 4 * len(kinds):
        raise SchemaError("columns of different length")
    places = np.frombuffer(offsets, "<u8").tolist()
    sizes = np.frombuffer(lengths, "<u4").tolist()
    if any(not 0 < size <= MAX_EXTENT_BYTES for size in sizes):
        raise SchemaError("an extent has a wrong length")
    return [Extent(*item) for item in zip(places, sizes, kinds, strict=True)]


def _require_disjoint(
    ranges: list[tuple[int, int]], end: int, size: int
) -> None:
    """Check order and bounds (the writer is authentic, not trusted).

    LBA 0, up to ``end``, is the mark's and in no range.
    """
    for start, stop in ranges:
        if start < end:
            raise SchemaError("extents overlap")
        end = stop
    if end > size:
        raise SchemaError("an extent lies outside the disk")


__all__ = [
    "BLOB_MAGIC",
    "Manifest",
    "ManifestStore",
    "SealedExtent",
    "TagError",
    "blob_bytes",
    "read_blob",
    "read_context",
    "write_blob",
]
