"""FILE records and their attributes, many at a time.

All records of a batch are checked, mended (fixups) and walked in lock step
with numpy: a volume of 200,000 files costs a few hundred numpy calls instead
of a million turns of an interpreter loop. Every walk is bounded by the size
of a record: each step moves forward by at least the head of an attribute.

Source:
    Linux fs/ntfs3/fsntfs.c ``ntfs_fix_post_read`` and fs/ntfs3/record.c
    ``mi_enum_attr``; libfsntfs, "MFT entry".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ntfs.layout import (
    FILE_MAGIC,
    FIXUP_STRIDE,
    NON_RESIDENT_HEAD_BYTES,
    RECORD_HEAD_BYTES,
    RECORD_IN_USE,
    REFERENCE_MASK,
    RESIDENT_HEAD_BYTES,
    AttributeField,
    AttributeType,
    Field,
    RecordField,
    ResidentField,
)

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


def refuse_record(number: int, what: str) -> NoReturn:
    """Refuse the volume because of one FILE record.

    Raises:
        CorruptImageError: Always.
    """
    raise CorruptImageError(
        f"NTFS record {number}: {what}; run chkdsk in the guest"
    )


def _require_none(bad: Mask, numbers: Numbers, what: str) -> None:
    """Refuse the first record of those that ``bad`` marks."""
    if bad.any():
        refuse_record(int(numbers[bad][0]), what)


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """FILE records in use, fixups undone.

    ``numbers`` are their numbers in the MFT; ``data`` has a row of bytes for
    each.
    """

    numbers: Numbers
    data: Bytes

    def at(self, rows: Numbers, places: Numbers, field: Field) -> Numbers:
        """Read a field of structures that begin at byte ``places`` of rows.

        The places are multiples of 8, so that no field lies across a border
        of its own size. Numbers of 64 bits come back in two's complement.
        """
        words = self.data.view(f"<u{field.size}")
        columns = (places + field.offset) // field.size
        return words[rows, columns].astype(np.int64)

    def head(self, field: Field) -> Numbers:
        """Read a field of the head of every record."""
        words = self.data.view(f"<u{field.size}")
        return words[:, field.offset // field.size].astype(np.int64)

    def owners(self) -> Numbers:
        """Number of the base record of each: its own, unless extension.

        A base record refers to nothing at all: to record 0 with sequence
        number 0. Extensions of $MFT refer to record 0 with another.
        """
        base = self.head(RecordField.BASE_RECORD)
        return np.where(base == 0, self.numbers, base & REFERENCE_MASK)


def load_records(
    raw: bytes, numbers: Numbers, record_bytes: int
) -> RecordBatch:
    """Take the records that are in use and undo their fixups.

    Args:
        raw: Records, one after another, as they lie on disk.
        numbers: The number of each.
        record_bytes: Length of a record in bytes.

    Raises:
        CorruptImageError: A record in use is torn (wrong update sequence) or
            was marked so (``BAAD``). Records not in use may hold anything.
    """
    table = np.frombuffer(raw, np.uint8).reshape(-1, record_bytes)
    every = RecordBatch(numbers, table)
    in_use = (every.head(RecordField.FLAGS) & RECORD_IN_USE) != 0
    strange = every.head(RecordField.MAGIC) != FILE_MAGIC
    _require_none(in_use & strange, numbers, "in use but not a FILE record")
    batch = RecordBatch(numbers[in_use], table[in_use])
    _undo_fixups(batch, record_bytes // FIXUP_STRIDE)
    return batch


def _undo_fixups(batch: RecordBatch, strides: int) -> None:
    """Check the update sequence of each record and put the words back."""
    offset = batch.head(RecordField.FIXUP_OFFSET)
    count = batch.head(RecordField.FIXUP_COUNT)
    bad = (count != strides + 1) | (offset % 2 != 0)
    bad |= offset + 2 * (strides + 1) > FIXUP_STRIDE - 2
    _require_none(bad, batch.numbers, "wrong update sequence array")
    words = batch.data.view("<u2")
    rows = np.arange(len(words))[:, None]
    first = offset[:, None] // 2
    ends = words[:, FIXUP_STRIDE // 2 - 1 :: FIXUP_STRIDE // 2]
    torn = (ends != words[rows, first]).any(axis=1)
    _require_none(torn, batch.numbers, "torn (update sequence mismatch)")
    ends[:] = words[rows, first + 1 + np.arange(strides)]


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """Attributes of a batch: row of the record and place in it, in bytes."""

    batch: RecordBatch
    rows: Numbers
    places: Numbers
    lengths: Numbers
    types: Numbers
    resident: Mask

    def where(self, mask: Mask) -> Attributes:
        """Take the attributes that ``mask`` marks."""
        return Attributes(
            self.batch,
            self.rows[mask],
            self.places[mask],
            self.lengths[mask],
            self.types[mask],
            self.resident[mask],
        )

    def head(self, field: Field) -> Numbers:
        """Read a field of the head of every attribute."""
        return self.batch.at(self.rows, self.places, field)

    def numbers(self) -> Numbers:
        """Number of the record that holds each attribute."""
        return self.batch.numbers[self.rows]

    def raw(self, index: int) -> bytes:
        """Bytes of one attribute."""
        place = int(self.places[index])
        end = place + int(self.lengths[index])
        return self.batch.data[int(self.rows[index]), place:end].tobytes()

    def values(self, minimum: int) -> Numbers:
        """Places in the record of the values; all must be resident.

        Args:
            minimum: Bytes that each value must have.

        Raises:
            CorruptImageError: A value is not resident, too short, not
                aligned, or not inside its attribute.
        """
        offset = self.head(ResidentField.VALUE_OFFSET)
        length = self.head(ResidentField.VALUE_LENGTH)
        bad = ~self.resident | (offset % 8 != 0) | (length < minimum)
        bad |= (offset < RESIDENT_HEAD_BYTES) | (
            offset + length > self.lengths
        )
        _require_none(bad, self.numbers(), "wrong resident attribute")
        return self.places + offset


def walk(batch: RecordBatch) -> Attributes:
    """Find all attributes of all records of a batch.

    Raises:
        CorruptImageError: An attribute does not lie inside its record.
    """
    used = batch.head(RecordField.BYTES_IN_USE)
    place = batch.head(RecordField.FIRST_ATTRIBUTE)
    bad = (used > batch.data.shape[1]) | (place + 4 > used)
    bad |= (place < RECORD_HEAD_BYTES) | (place % 8 != 0)
    _require_none(bad, batch.numbers, "wrong record head")
    row = np.arange(len(place))
    steps: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []
    while len(row):
        kind = batch.at(row, place, AttributeField.TYPE)
        goes_on = kind != AttributeType.END
        row, place, kind = row[goes_on], place[goes_on], kind[goes_on]
        length = batch.at(row, place, AttributeField.LENGTH)
        bad = (length < RESIDENT_HEAD_BYTES) | (length % 8 != 0)
        bad |= place + length + 4 > used[row]
        _require_none(bad, batch.numbers[row], "wrong attribute length")
        steps.append((row, place, length, kind))
        place = place + length
    return _collect(batch, steps)


def _collect(
    batch: RecordBatch,
    steps: list[tuple[Numbers, Numbers, Numbers, Numbers]],
) -> Attributes:
    """Join the steps of a walk and check the form of each attribute."""
    empty = np.zeros(0, np.int64)
    rows, places, lengths, types = (
        np.concatenate([empty, *column])
        for column in (zip(*steps, strict=True) if steps else [()] * 4)
    )
    form = batch.at(rows, places, AttributeField.NON_RESIDENT)
    short = (form == 1) & (lengths < NON_RESIDENT_HEAD_BYTES)
    _require_none(
        (form > 1) | short, batch.numbers[rows], "wrong attribute head"
    )
    return Attributes(batch, rows, places, lengths, types, form == 0)
