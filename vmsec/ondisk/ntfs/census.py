"""Whose $DATA is metadata: the volume's own files, and symbolic links.

What lies in a $DATA attribute belongs to the user and is left alone, save for
the files that make up the volume: the first records, and below $Extend those
whose names begin with a dollar sign ($UsnJrnl, $ObjId, $Quota, $Reparse,
$RmMetadata and what Windows keeps there). What users deleted while it was
open waits in $Extend/$Deleted and $RmMetadata/$Txf under names in hexadecimal
and stays the user's.

A record alone does not tell: a parent may come later in $MFT than its child,
and $DATA may lie in extension records. So a census first collects, cheaply,
and answers when all records have been seen.

Source:
    libfsntfs, "The metadata files"; Linux fs/ntfs3/fsntfs.c,
    ``ntfs_extend_init``.
"""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.ntfs.layout import (
    FILE_ATTRIBUTE_SYSTEM,
    FILE_NAME_BYTES,
    FIRST_USER_RECORD,
    REFERENCE_MASK,
    STANDARD_INFORMATION_BYTES,
    AttributeType,
    NameField,
    StandardField,
    SystemRecord,
)

if TYPE_CHECKING:
    from vmsec.ondisk.ntfs.record import Attributes, Mask, Numbers

NOT_MAPPED = frozenset({SystemRecord.ROOT, SystemRecord.BAD_CLUSTERS})
"""A stream of the root directory is the user's. Bad clusters hold nothing
that may be relied on, and must be neither read nor written; which they are,
$MFT says."""

FIXED_CLASSES = MappingProxyType(
    dict.fromkeys(
        frozenset(range(FIRST_USER_RECORD)) - NOT_MAPPED,
        MetadataClass.SYSTEM_FILE,
    )
    | {
        SystemRecord.MFT: MetadataClass.MFT,
        SystemRecord.MFT_MIRROR: MetadataClass.MFT_MIRROR,
        SystemRecord.LOGFILE: MetadataClass.LOGFILE,
        SystemRecord.BITMAP: MetadataClass.BITMAP,
        SystemRecord.BOOT: MetadataClass.BOOT_SECTOR,
    }
)
"""Class of the $DATA of the volume's own files in the first records."""

USN_JOURNAL = "$UsnJrnl"


class Census:
    """Collects from all records what decides whose $DATA is metadata."""

    def __init__(self) -> None:
        self._children: dict[int, list[tuple[int, str]]] = defaultdict(list)
        self._system: list[Numbers] = []
        self._holders: list[tuple[Numbers, Numbers]] = []

    def add(self, attributes: Attributes) -> None:
        """Take note of the records of one batch.

        Raises:
            CorruptImageError: A name or its standard information is damaged.
        """
        batch, owners = attributes.batch, attributes.batch.owners()
        likely = (owners != batch.numbers) | (owners < FIRST_USER_RECORD)
        likely |= self._add_names(attributes, owners)
        likely |= self._add_system(attributes, owners)
        split = attributes.types == AttributeType.ATTRIBUTE_LIST
        likely[attributes.rows[split]] = True
        data = attributes.types == AttributeType.DATA
        holds = np.zeros(len(likely), np.bool_)
        holds[attributes.rows[data & ~attributes.resident]] = True
        rows = likely & holds
        self._holders.append((batch.numbers[rows], owners[rows]))

    def classes(self) -> dict[int, MetadataClass]:
        """Class of the $DATA of each of the volume's own files, by number."""
        classes: dict[int, MetadataClass] = dict(FIXED_CLASSES)
        frontier: list[int] = [SystemRecord.EXTEND]
        while frontier:
            for child, name in self._children.pop(frontier.pop(), ()):
                if child < FIRST_USER_RECORD or child in classes:
                    continue
                classes[child] = (
                    MetadataClass.JOURNAL
                    if name == USN_JOURNAL
                    else MetadataClass.SYSTEM_FILE
                )
                frontier.append(child)
        return classes

    def holders(self, classes: dict[int, MetadataClass]) -> Numbers:
        """Numbers of the records whose $DATA is, or may be, metadata."""
        empty = np.zeros(0, np.int64)
        numbers, owners = (
            np.concatenate([empty, *column])
            for column in zip(*self._holders, strict=True)
        )
        wanted = np.concatenate(
            [np.fromiter(classes, np.int64, len(classes)), *self._system]
        )
        return np.sort(numbers[np.isin(owners, wanted)])

    def _add_names(self, attributes: Attributes, owners: Numbers) -> Mask:
        """Note names that begin with a dollar sign; mark their rows."""
        names = attributes.where(attributes.types == AttributeType.FILE_NAME)
        places = names.values(FILE_NAME_BYTES)
        batch = names.batch
        first = batch.at(names.rows, places, NameField.FIRST_CHARACTER)
        parent = batch.at(names.rows, places, NameField.PARENT)
        length = batch.at(names.rows, places, NameField.NAME_LENGTH)
        found = np.zeros(len(owners), np.bool_)
        for index in np.flatnonzero(first == ord("$")):
            row = int(names.rows[index])
            start = int(places[index]) + NameField.FIRST_CHARACTER.offset
            name = batch.data[row, start : start + 2 * int(length[index])]
            self._children[int(parent[index]) & REFERENCE_MASK].append(
                (
                    int(owners[row]),
                    name.tobytes().decode("utf-16le", "replace"),
                )
            )
            found[row] = True
        return found

    def _add_system(self, attributes: Attributes, owners: Numbers) -> Mask:
        """Note files with the attribute SYSTEM; mark their rows."""
        heads = attributes.where(
            attributes.types == AttributeType.STANDARD_INFORMATION
        )
        flags = heads.batch.at(
            heads.rows,
            heads.values(STANDARD_INFORMATION_BYTES),
            StandardField.FILE_ATTRIBUTES,
        )
        rows = heads.rows[(flags & FILE_ATTRIBUTE_SYSTEM) != 0]
        self._system.append(owners[rows])
        found = np.zeros(len(owners), np.bool_)
        found[rows] = True
        return found
