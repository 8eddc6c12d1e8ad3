"""The master file table: found by its own first record, read in chunks.

$MFT describes itself: record 0 holds the first part of its run list, and
where $MFT is fragmented so much that the list does not fit, its
$ATTRIBUTE_LIST names extension records that lie in the parts known so far.

Source:
    Linux fs/ntfs3/super.c, ``ntfs_fill_super`` ("Load $MFT"); libfsntfs,
    "The Master File Table (MFT)".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmsec.errors import CorruptImageError
from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.ntfs.layout import (
    FIRST_USER_RECORD,
    LIST_ENTRY_BYTES,
    REFERENCE_MASK,
    AttributeField,
    AttributeType,
    ListField,
    NonResidentField,
    ResidentField,
    SystemRecord,
)
from vmsec.ondisk.ntfs.record import (
    Attributes,
    Numbers,
    RecordBatch,
    load_records,
    refuse_record,
    walk,
)
from vmsec.ondisk.ntfs.runlist import ClusterStream, Run, decode_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.ondisk.ntfs.boot import Geometry
    from vmsec.ondisk.source import BlockSource

CHUNK_BYTES = 2 << 20
"""What is read and worked on at once; fits the second-level cache."""

MAX_RECORDS = 1 << 26
"""A $MFT of 64 GiB: a minute's reading. Volumes of file servers hold a few
million files."""

MAX_ATTRIBUTE_LIST_BYTES = 256 << 10
"""The most that Windows lets $ATTRIBUTE_LIST grow to."""


class ListEntry(NamedTuple):
    """Where a part of $MFT's own run list is."""

    lowest_vcn: int
    record: int


class MasterFileTable:
    """The FILE records of a volume.

    Args:
        source: The volume.
        geometry: Its checked boot sector.

    Raises:
        FormatError: $MFT cannot be read through its own description.
    """

    def __init__(self, source: BlockSource, geometry: Geometry) -> None:
        self._source, self._geometry = source, geometry
        start = Run(0, geometry.mft_lcn, geometry.clusters - geometry.mft_lcn)
        self._stream = self.open_runs((start,))
        self._count = 1
        base = self._attributes_of(SystemRecord.MFT)
        head = _own_data(base, 0)
        self._stream = self.open_runs(())
        self._extend(SystemRecord.MFT, head)
        for entry in self._own_list(base):
            if entry.lowest_vcn:
                part = self._attributes_of(entry.record)
                self._extend(entry.record, _own_data(part, entry.lowest_vcn))
        self._settle(NonResidentField.INITIALIZED_SIZE.read(head))

    def load(self, numbers: Numbers) -> RecordBatch:
        """Load those of the given records that are in use.

        Args:
            numbers: Ascending; each is that of a record there is.

        Raises:
            CorruptImageError: One of them is damaged.
        """
        size = self._geometry.record_bytes
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        raw = b"".join(
            self._stream.read(int(part[0]) * size, len(part) * size)
            for part in np.split(numbers, breaks)
            if len(part)
        )
        return load_records(raw, numbers, size)

    def batches(self) -> Iterator[RecordBatch]:
        """Load all records in use, a few MiB at a time."""
        step = CHUNK_BYTES // self._geometry.record_bytes
        for start in range(0, self._count, step):
            end = min(start + step, self._count)
            yield self.load(np.arange(start, end, dtype=np.int64))

    def select(self, numbers: Numbers) -> Iterator[RecordBatch]:
        """Load the given records, ascending, a few MiB at a time."""
        step = CHUNK_BYTES // self._geometry.record_bytes
        for start in range(0, len(numbers), step):
            yield self.load(numbers[start : start + step])

    def open_runs(self, runs: tuple[Run, ...]) -> ClusterStream:
        """Return a reader of what ``runs``, from VCN 0 on, hold."""
        stream = ClusterStream(self._source, self._geometry.cluster_bytes)
        stream.extend(runs)
        return stream

    def _extend(self, record: int, attribute: bytes) -> None:
        """Add a part of $MFT's run list, which a record of $MFT holds."""
        runs = decode_runs(attribute, self._geometry.clusters)
        if not runs or any(run.lcn is None for run in runs):
            refuse_record(record, "its part of $MFT has holes or is empty")
        if record == 0 and runs[0].lcn != self._geometry.mft_lcn:
            refuse_record(record, "$MFT is not where the boot sector says")
        self._stream.extend(runs)
        # Runs do not overlap, so $MFT is no larger than the volume.
        if self._stream.clusters > self._geometry.clusters:
            refuse_record(record, "makes $MFT larger than the volume")
        self._count = self._stream.size_bytes // self._geometry.record_bytes

    def _attributes_of(self, number: int) -> Attributes:
        """Attributes of one record of $MFT itself."""
        if number >= self._count:
            refuse_record(number, "outside the part of $MFT that is known")
        batch = self.load(np.array([number], np.int64))
        if not len(batch.numbers) or batch.owners()[0] != SystemRecord.MFT:
            refuse_record(number, "not a record of $MFT")
        return walk(batch)

    def _own_list(self, base: Attributes) -> Iterable[ListEntry]:
        """Parts of $MFT's run list by its $ATTRIBUTE_LIST, if it has one."""
        lists = base.where(base.types == AttributeType.ATTRIBUTE_LIST)
        if not len(lists.rows):
            return ()
        raw = lists.raw(0)
        if lists.resident[0]:
            lists.values(0)
            start = ResidentField.VALUE_OFFSET.read(raw)
            size = ResidentField.VALUE_LENGTH.read(raw)
            return _list_entries(raw[start : start + size])
        size = require_limit(
            NonResidentField.DATA_SIZE.read(raw),
            MAX_ATTRIBUTE_LIST_BYTES,
            "the size of $MFT's attribute list",
        )
        runs = decode_runs(raw, self._geometry.clusters)
        return _list_entries(self.open_runs(runs).read(0, size))

    def _settle(self, initialized: int) -> None:
        """Fix the number of records, now that all runs are known."""
        written = require_limit(
            initialized // self._geometry.record_bytes,
            MAX_RECORDS,
            "the number of NTFS records",
        )
        if not FIRST_USER_RECORD <= written <= self._count:
            refuse_record(0, f"$MFT states {written} records in {self._count}")
        self._count = written


def _own_data(attributes: Attributes, lowest_vcn: int) -> bytes:
    """Bytes of the unnamed $DATA attribute that begins at a VCN."""
    chosen = attributes.where(
        (attributes.types == AttributeType.DATA)
        & ~attributes.resident
        & (attributes.head(AttributeField.NAME_LENGTH) == 0)
    )
    starts = chosen.head(NonResidentField.LOWEST_VCN)
    fitting = np.flatnonzero(starts == lowest_vcn)
    if not len(fitting):
        raise CorruptImageError(
            f"NTFS: $MFT has no run list from VCN {lowest_vcn} on; "
            "run chkdsk in the guest"
        )
    return chosen.raw(int(fitting[0]))


def _list_entries(content: bytes) -> Iterator[ListEntry]:
    """Decode the entries of unnamed $DATA in an $ATTRIBUTE_LIST, in order."""
    at = 0
    while at < len(content):
        length = ListField.LENGTH.read(content, at)
        if length < LIST_ENTRY_BYTES or at + length > len(content):
            raise CorruptImageError("NTFS: $MFT's attribute list breaks off")
        kind = ListField.TYPE.read(content, at)
        if kind == AttributeType.DATA and not ListField.NAME_LENGTH.read(
            content, at
        ):
            yield ListEntry(
                ListField.LOWEST_VCN.read(content, at),
                ListField.REFERENCE.read(content, at) & REFERENCE_MASK,
            )
        at += length
