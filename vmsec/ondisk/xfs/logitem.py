"""From log records to committed transactions and their items.

A record is a row of *operations*, each of one transaction; one that does not
fit is continued in the next record. The operations of a transaction are the
*regions* of its items: the first region of an item says what it is and how
many more there are.

Source:
    XADS 11.2 ("Log Records") and 11.3 ("Log Operations"); Linux
    fs/xfs/xfs_log_recover.c (``xlog_recover_process_ophdr``,
    ``xlog_recover_add_to_trans``, ``xlog_recover_add_to_cont_trans``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from vmsec.ondisk.limits import require_limit
from vmsec.ondisk.xfs.log import log_corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmsec.ondisk.xfs.log import Record

MAX_OPEN_TRANSACTIONS: Final = 1 << 16
"""Transactions that are not committed yet; kernels since 2.6.39 have some
few at a time."""

BUFFER: Final = 0x123C
INODE: Final = 0x123B
_FIRST_TYPE, _LAST_TYPE = 0x1236, 0x124F

_OPERATION = struct.Struct(">IIBBxx")
_START, _COMMIT, _WAS_CONTINUED, _UNMOUNT = 0x01, 0x02, 0x08, 0x20


class Item(NamedTuple):
    """A whole log item: its type (``XFS_LI_*``) and its regions in order.

    ``order`` is the byte order of its numbers, as ``struct`` writes it.
    """

    kind: int
    regions: list[bytes]
    order: str


class _Transaction:
    """A transaction on its way through the log."""

    def __init__(self) -> None:
        self._header_seen = False
        self._regions: list[bytearray] = []

    def add(self, data: bytes) -> None:
        """Take the next region; the first one is the transaction's header."""
        if not self._header_seen:
            self._header_seen = True
        elif data:
            self._regions.append(bytearray(data))

    def extend(self, data: bytes) -> None:
        """Take more of the last region, or of the header."""
        if self._regions:
            self._regions[-1] += data

    def items(self, order: str) -> Iterator[Item]:
        """Yield the items of a whole transaction."""
        regions = [bytes(region) for region in self._regions]
        at = 0
        while at < len(regions):
            if len(regions[at]) < 4:
                raise log_corrupt("an item is too short")
            kind, count = struct.unpack_from(f"{order}HH", regions[at])
            if (
                not _FIRST_TYPE <= kind <= _LAST_TYPE
                or not 0 < count <= len(regions) - at
            ):
                raise log_corrupt(f"an item of type {kind:#x} is not whole")
            yield Item(kind, regions[at : at + count], order)
            at += count


def read_transactions(records: Iterable[Record]) -> Iterator[list[Item]]:
    """Yield the items of each transaction, in the order of their commits.

    Transactions that are not committed, or whose beginning is not there any
    more, are left out.

    Raises:
        CorruptImageError: The operations are not well formed.
        LimitExceededError: More than :data:`MAX_OPEN_TRANSACTIONS`.
    """
    pending: dict[int, _Transaction] = {}
    for record in records:
        for number, flags, data in _operations(record):
            if flags & _START:
                pending[number] = _Transaction()
                require_limit(
                    len(pending),
                    MAX_OPEN_TRANSACTIONS,
                    "the number of open log transactions",
                )
            transaction = pending.get(number)
            if transaction is None or flags & _START:
                continue
            if flags & _WAS_CONTINUED:
                transaction.extend(data)
            elif flags & _COMMIT:
                del pending[number]
                yield list(transaction.items(record.order))
            elif flags & _UNMOUNT:
                del pending[number]
            else:
                transaction.add(data)


def _operations(record: Record) -> Iterator[tuple[int, int, bytes]]:
    """Yield transaction, flags and content of each operation of a record.

    Behind the last one may be what the guest's memory held.
    """
    at, left, data = 0, record.operations, record.data
    while left > 0 and at + _OPERATION.size <= len(data):
        left -= 1
        number, length, _, flags = _OPERATION.unpack_from(data, at)
        at += _OPERATION.size
        if length > len(data) - at:
            raise log_corrupt("an operation does not fit its record")
        yield number, flags, data[at : at + length]
        at += length
