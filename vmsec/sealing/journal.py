"""The seal journal: ciphertext only, whole or not there, replayed without key.

Form of the file (integers little endian)::

    0     magic 8, version 4, index offset 8, index length 8, SHA-256 of index
    4096  payload: the journalled bytes of every record, one after the other
    ...   index: deterministic encoding of JournalIndex

It is written under a draft name, synced, and only then renamed to its final
name (J2), so a file with the final name is whole: anything else there is
damage and is refused, never guessed at. A draft is never replayed.

Invariants (DESIGN 3.7): I1, I3, I5, I6.
"""

from __future__ import annotations

import hashlib
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from vmsec.crypto.aead import RangeDigest
from vmsec.crypto.context import CONTEXT_BYTES, SealContext
from vmsec.encoding import decode, encode, field
from vmsec.errors import JournalCorruptError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

_MAGIC = b"\x93vmsecJ\n"
_VERSION = 1
_HEAD = struct.Struct("<8sIQQ32s")
PAYLOAD_AT = 4096
MAX_INDEX_BYTES = 1 << 30
_MAX_PLACE = 1 << 62
"""More than any file holds; beyond it pread(2) takes no offset."""
_WHAT = "seal journal"
_CHUNK = 1 << 20
_SECTOR_SIZES = (512, 4096)


class JournalFiles(Protocol):
    """Where a journal lies; the crash tests have another one."""

    @property
    def name(self) -> str:
        """What to call the journal in an error."""
        ...

    def exists(self) -> bool:
        """Whether a published journal is there (a hot one)."""
        ...

    def create_draft(self, expected_bytes: int) -> None:
        """Begin a draft; an old draft is removed.

        Raises:
            ImageFullError: Fewer than ``expected_bytes`` are free.
        """
        ...

    def write_draft(self, offset: int, data: memoryview | bytes) -> None:
        """Write into the draft."""
        ...

    def read_draft(self, offset: int, length: int) -> bytes:
        """Read back from the draft, also after it was published."""
        ...

    def sync_draft(self) -> None:
        """Make the draft's content durable (J2, first half)."""
        ...

    def publish(self) -> None:
        """Rename the draft and sync the directory (J2, second half)."""
        ...

    def discard_draft(self) -> None:
        """Remove the draft, if there is one."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes of the published journal."""
        ...

    def sync_published(self) -> None:
        """Make the published journal and its name durable.

        Who was killed in :meth:`publish`, or who copied it here, may have
        left it in the page cache only.
        """
        ...

    def remove(self) -> None:
        """Remove the published journal and sync the directory (J5, J6)."""
        ...


class JournalIndex(NamedTuple):
    """What a journal says of itself.

    ``context`` names the seal whose ciphertext it holds; ``sealed_lba0`` is
    that seal's mark; ``other_lba0`` is the SHA-256 of what LBA 0 holds on the
    other side of the change (plain, or the older mark at a re-key);
    ``records`` are (offset on the disk, length), disjoint; ``other_records``
    is the digest of what all of them hold on the other side, and
    ``other_key`` its key (:class:`~vmsec.crypto.aead.RangeDigest`).
    """

    context: SealContext
    disk_bytes: int
    sealed_lba0: bytes
    other_lba0: bytes
    records: tuple[tuple[int, int], ...]
    other_key: bytes
    other_records: bytes

    def encode(self, payload_digest: bytes) -> bytes:
        """Return the index as stored."""
        column = np.array(self.records, "<u8").reshape(-1, 2)
        return encode(
            {
                "context": self.context.pack(),
                "disk_bytes": self.disk_bytes,
                "sealed_lba0": self.sealed_lba0,
                "other_lba0": self.other_lba0,
                "records": column.tobytes(),
                "other_key": self.other_key,
                "other_records": self.other_records,
                "payload": payload_digest,
            }
        )


class JournalWriter:
    """Writes a draft record by record and publishes it.

    The payload's digest is taken by a thread beside the I/O.

    Args:
        files: Where it goes.
        expected_bytes: An upper bound of the payload, to refuse early.
    """

    def __init__(self, files: JournalFiles, expected_bytes: int) -> None:
        files.create_draft(PAYLOAD_AT + expected_bytes + (1 << 20))
        self._files, self._end = files, PAYLOAD_AT
        self._parts: list[memoryview] = []
        self._flushed = PAYLOAD_AT
        self._digest = hashlib.sha256()
        self.other_key = os.urandom(32)
        self.other = RangeDigest(self.other_key)
        self._hasher = ThreadPoolExecutor(1, "journal-digest")
        self._last: Future[None] | None = None
        self.records: list[tuple[int, int]] = []

    def append(self, offset: int, data: memoryview, other: memoryview) -> int:
        """Add a record; return where its bytes lie in the journal.

        ``data`` must not change afterwards. ``other``, as long, is what the
        disk holds there on the other side; only its digest is kept.
        """
        place = self._end
        self._parts.append(data)
        self.other.add(offset, other)
        self.records.append((offset, len(data)))
        self._end += len(data)
        if self._end - self._flushed >= _CHUNK:
            self._flush()
        return place

    def _flush(self) -> None:
        """Write what was gathered: many records are one block long."""
        data = b"".join(self._parts)
        self._last = self._hasher.submit(self._digest.update, data)
        self._files.write_draft(self._flushed, data)
        self._parts, self._flushed = [], self._end

    def commit(self, index: JournalIndex) -> None:
        """Finish, sync and publish the journal: from here on it is hot.

        Crash:
            Before the rename is durable there is at most a draft, which
            recovery removes; after it the journal is whole.
        """
        self._flush()
        if self._last is not None:
            self._last.result()
        body = index.encode(self._digest.digest())
        self._files.write_draft(self._end, body)
        digest = hashlib.sha256(body).digest()
        head = _HEAD.pack(_MAGIC, _VERSION, self._end, len(body), digest)
        self._files.write_draft(0, head)  # J1
        self._files.sync_draft()  # J2
        self._files.publish()  # J2

    def close(self) -> None:
        """Stop the digest thread."""
        self._hasher.shutdown()


class HotJournal:
    """A whole, published journal.

    Args:
        files: Where it lies.

    Raises:
        JournalCorruptError: It is not whole.
    """

    def __init__(self, files: JournalFiles) -> None:
        self._files = files
        self.index, payload_digest = self._read_index()
        digest = hashlib.sha256()
        for _, data in self.records():
            digest.update(data)
        if digest.digest() != payload_digest:
            raise self._corrupt("its payload was changed")

    def _corrupt(self, why: str) -> JournalCorruptError:
        return JournalCorruptError(
            f"{self._files.name}: {why}; the image is left as it is; keep "
            "both and restore the journal from a copy"
        )

    def _read_index(self) -> tuple[JournalIndex, bytes]:
        head = self._files.read(0, _HEAD.size)
        if len(head) != _HEAD.size:
            raise self._corrupt("it is cut short")
        magic, version, place, length, digest = _HEAD.unpack(head)
        if magic != _MAGIC or version != _VERSION:
            raise self._corrupt("its head is not one of this version")
        if not 0 < length <= MAX_INDEX_BYTES or place >= _MAX_PLACE:
            raise self._corrupt("its index is out of range")
        body = self._files.read(place, length)
        if hashlib.sha256(body).digest() != digest:
            raise self._corrupt("its index was changed")
        try:
            index, payload = _index_from(decode(body, what=_WHAT))
        except SchemaError as err:
            raise self._corrupt("its index is not well formed") from err
        if PAYLOAD_AT + sum(size for _, size in index.records) != place:
            raise self._corrupt("its records do not fill it")
        return index, payload

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset on the disk, bytes), in pieces of at most 1 MiB."""
        place = PAYLOAD_AT
        for offset, length in self.index.records:
            for done in range(0, length, _CHUNK):
                size = min(_CHUNK, length - done)
                data = self._files.read(place + done, size)
                if len(data) != size:
                    raise self._corrupt("it is cut short")
                yield offset + done, data
            place += length


def _index_from(record: object) -> tuple[JournalIndex, bytes]:
    def take(name: str) -> bytes:
        value: bytes = field(record, name, bytes, what=_WHAT)
        return value

    packed, column = take("context"), take("records")
    lengths = len(packed), len(column) % 16, len(take("other_key"))
    if lengths != (CONTEXT_BYTES, 0, 32):
        raise SchemaError("a field has a wrong length")
    pairs = np.frombuffer(column, "<u8").reshape(-1, 2).tolist()
    size = field(record, "disk_bytes", int, what=_WHAT)
    records = tuple((offset, length) for offset, length in pairs)
    if len(take("sealed_lba0")) not in _SECTOR_SIZES:
        raise SchemaError("LBA 0 has a wrong length")
    _require_disjoint(records, len(take("sealed_lba0")), size)
    index = JournalIndex(
        context=SealContext.unpack(packed),
        disk_bytes=size,
        sealed_lba0=take("sealed_lba0"),
        other_lba0=take("other_lba0"),
        records=records,
        other_key=take("other_key"),
        other_records=take("other_records"),
    )
    return index, take("payload")


def _require_disjoint(
    records: tuple[tuple[int, int], ...], end: int, size: int
) -> None:
    """Check I2: disjoint, inside the disk, behind LBA 0 (up to ``end``)."""
    for offset, length in sorted(records):
        if offset < end or length == 0 or offset + length > size:
            raise SchemaError("records overlap or lie outside the disk")
        end = offset + length
