"""The cluster heap of an exFAT volume: every directory, visited once.

The checksum of an entry set is not asked for: what a driver would refuse is
followed here, so that its name is hidden as well.

Source:
    Microsoft exFAT file system specification, revision 1.00; numbers in the
    code are its sections.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk import limits
from vmsec.ondisk.extent import MetadataClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.ondisk.fattable import FATTable
    from vmsec.ondisk.source import BlockSource

_ENTRY_BYTES = 32
_CHUNK_BYTES = 64 << 10
"""How much of a directory is read at once; a power of two."""

_ALLOCATION = struct.Struct("<20xIQ")
"""6.2: FirstCluster and DataLength, in every entry that has them."""

_END_OF_DIRECTORY = 0x00
_BITMAP, _UPCASE, _LABEL, _FILE = 0x81, 0x82, 0x83, 0x85
_STREAM = 0xC0
_CRITICAL_PRIMARY, _KIND_BITS = 0x80, 0xE0
_ATTRIBUTES_AT = 4
_ATTRIBUTE_DIRECTORY = 0x10
_NO_FAT_CHAIN = 2
_TABLES = {
    _BITMAP: MetadataClass.BITMAP,
    _UPCASE: MetadataClass.SYSTEM_FILE,
}


class Run(NamedTuple):
    """Clusters that follow one another, in bytes of the volume."""

    offset: int
    length: int


class Stream(NamedTuple):
    """An allocation as an entry describes it.

    ``length`` is in bytes, or ``None`` if only the chain's end tells it.
    """

    first: int
    length: int | None
    is_contiguous: bool = False


class ClusterHeap:
    """Turns allocations into runs of bytes.

    Args:
        source: The volume.
        table: Its file allocation table.
        offset: Where cluster 2 begins, in bytes.
        cluster_bytes: Length of a cluster.
        clusters: How many there are.
    """

    def __init__(
        self,
        source: BlockSource,
        table: FATTable,
        offset: int,
        cluster_bytes: int,
        clusters: int,
    ) -> None:
        self.source = source
        self._table, self._offset = table, offset
        self._cluster_bytes, self._clusters = cluster_bytes, clusters
        self._followed = 0

    def runs(self, stream: Stream, longest: int) -> list[Run]:
        """Return where an allocation lies, in order.

        Raises:
            CorruptImageError: It leaves the heap, or its chain does not have
                the length that its entry says.
            LimitExceededError: It is longer than ``longest`` bytes.
        """
        if stream.length is not None:
            limits.require_limit(
                stream.length, longest, "exFAT: the length of an allocation"
            )
        if stream.is_contiguous:
            return [self._contiguous(stream)]
        return self._chained(stream, longest)

    def _contiguous(self, stream: Stream) -> Run:
        """6.3.4.2: the table says nothing about these clusters."""
        count = -(-(stream.length or 0) // self._cluster_bytes)
        last = stream.first + count - 1
        if stream.first < 2 or count < 1 or last > self._clusters + 1:
            raise CorruptImageError(
                f"exFAT: {count} clusters from {stream.first} are not among "
                f"the {self._clusters} there are; repair it with fsck.exfat"
            )
        return self._run(stream.first, count)

    def _chained(self, stream: Stream, longest: int) -> list[Run]:
        runs: list[tuple[int, int]] = []
        count = 0
        for cluster in self._table.chain(stream.first):
            count += 1
            self._require_budget(count, longest)
            if runs and cluster == sum(runs[-1]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((cluster, 1))
        length = stream.length
        if length is not None and count * self._cluster_bytes < length:
            raise CorruptImageError(
                f"exFAT: the chain from cluster {stream.first} has {count} "
                f"clusters, too few for {length} bytes; repair it with "
                "fsck.exfat"
            )
        return [self._run(*run) for run in runs]

    def _require_budget(self, count: int, longest: int) -> None:
        self._followed += 1
        limits.require_limit(
            self._followed,
            limits.MAX_EXFAT_CHAINED_CLUSTERS,
            "exFAT: the number of clusters of directories",
        )
        limits.require_limit(
            (count - 1) * self._cluster_bytes,
            longest,
            "exFAT: the length of a chain",
        )

    def _run(self, first: int, count: int) -> Run:
        start = self._offset + (first - 2) * self._cluster_bytes
        return Run(start, count * self._cluster_bytes)


class Walk:
    """Visits each directory of a volume once."""

    def __init__(self, heap: ClusterHeap) -> None:
        self._heap = heap
        self._waiting: list[Stream] = []
        self._seen: set[int] = set()
        self._read = 0

    def allocations(self, root: int) -> Iterator[tuple[Run, MetadataClass]]:
        """Yield the runs of the root, the tables and all directories.

        Raises:
            CorruptImageError: Two directories begin in one cluster, an entry
                set is not whole, or an allocation is wrong.
            UnsupportedFormatError: The root has an unknown critical entry.
            LimitExceededError: There is more than anybody has.
        """
        runs = self._visit(Stream(root, None))
        yield from ((run, MetadataClass.DIRECTORY) for run in runs)
        yield from self._tables(runs)
        self._find_directories(runs)
        while self._waiting:
            runs = self._visit(self._waiting.pop())
            yield from ((run, MetadataClass.DIRECTORY) for run in runs)
            self._find_directories(runs)

    def _visit(self, stream: Stream) -> list[Run]:
        """Return the runs of a directory that was not seen before."""
        if stream.first in self._seen:
            raise CorruptImageError(
                f"exFAT: two directories begin in cluster {stream.first}; "
                "repair it with fsck.exfat"
            )
        self._seen.add(stream.first)
        limits.require_limit(
            len(self._seen),
            limits.MAX_EXFAT_DIRECTORIES,
            "exFAT: the number of directories",
        )
        return self._heap.runs(stream, limits.MAX_EXFAT_DIRECTORY_BYTES)

    def _tables(self, root: list[Run]) -> Iterator[tuple[Run, MetadataClass]]:
        """Yield the runs of bitmap and up-case table (7.1, 7.2)."""
        found: set[int] = set()
        for entry in self._critical_entries(root):
            if entry[0] in found:
                raise CorruptImageError(
                    f"exFAT: the root has two entries of type {entry[0]:#x}; "
                    "repair it with fsck.exfat"
                )
            found.add(entry[0])
            first, length = _ALLOCATION.unpack_from(entry)
            longest = self._heap.source.size_bytes
            for run in self._heap.runs(Stream(first, length), longest):
                yield run, _TABLES[entry[0]]
        if len(found) < len(_TABLES):
            raise CorruptImageError(
                "exFAT: the root names no allocation bitmap or no up-case "
                "table; repair it with fsck.exfat"
            )

    def _critical_entries(self, root: list[Run]) -> Iterator[bytes]:
        """Yield the entries of the tables; 8.2: none may be unknown."""
        for chunk in self._entries(root):
            types = chunk[:, 0]
            critical = (types & _KIND_BITS) == _CRITICAL_PRIMARY
            for entry in chunk[critical & (types != _FILE)]:
                if entry[0] in _TABLES:
                    yield entry.tobytes()
                elif entry[0] != _LABEL:
                    raise UnsupportedFormatError(
                        f"an unknown critical entry of type {entry[0]:#x}"
                    )

    def _find_directories(self, runs: list[Run]) -> None:
        """Remember the subdirectories that a directory names."""
        last = np.zeros((1, _ENTRY_BYTES), dtype=np.uint8)
        for chunk in self._entries(runs):
            self._add_directories(np.concatenate((last, chunk)))
            last = chunk[-1:]
        self._add_directories(np.concatenate((last, np.zeros_like(last))))

    def _add_directories(self, entries: npt.NDArray[np.uint8]) -> None:
        """Read sets whose first entry is not the last one here (7.4)."""
        is_directory = (entries[:-1, 0] == _FILE) & (
            (entries[:-1, _ATTRIBUTES_AT] & _ATTRIBUTE_DIRECTORY) != 0
        )
        for stream in entries[1:][is_directory]:
            if stream[0] != _STREAM:
                raise CorruptImageError(
                    "exFAT: a directory without a stream extension; repair "
                    "it with fsck.exfat"
                )
            first, length = _ALLOCATION.unpack(stream.tobytes())
            if first:
                contiguous = bool(stream[1] & _NO_FAT_CHAIN)
                self._waiting.append(Stream(first, length, contiguous))

    def _entries(self, runs: list[Run]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the entries of a directory before its end (6.2.1)."""
        for run in runs:
            for at in range(0, run.length, _CHUNK_BYTES):
                length = min(_CHUNK_BYTES, run.length - at)
                self._read += length
                limits.require_limit(
                    self._read,
                    limits.MAX_EXFAT_ENTRY_BYTES,
                    "exFAT: the bytes of directories",
                )
                data = self._heap.source.read_at(run.offset + at, length)
                chunk = np.frombuffer(data, dtype=np.uint8)
                chunk = chunk.reshape(-1, _ENTRY_BYTES)
                end = np.flatnonzero(chunk[:, 0] == _END_OF_DIRECTORY)
                if len(end):
                    if end[0]:
                        yield chunk[: end[0]]
                    return
                yield chunk
