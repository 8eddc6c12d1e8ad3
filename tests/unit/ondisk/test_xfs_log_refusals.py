"""Logs of XFS that a kernel does not write are refused in one line."""

from __future__ import annotations

import struct

import pytest

from tests.support.xfslog import (
    BUFFER,
    CORE,
    DATA_ROOT,
    INODE_ITEM,
    LOG_BLOCKS,
    LOG_START,
    SECTORS,
    START_FLAG,
    UNMOUNT,
    LogWriter,
    buffer_item,
    inode_item,
    operation,
    transaction,
)
from tests.support.xfsvolume import (
    BLOCK,
    BTREE,
    EXTENTS,
    INODE,
    REGULAR,
    XFSVolume,
    extent,
)
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.xfs import logitem, map_xfs, replay


def with_log(*, has_crc: bool = True) -> XFSVolume:
    """A volume with an inode in use and an internal log."""
    volume = XFSVolume(
        1,
        has_crc=has_crc,
        sb_logstart=LOG_START,
        sb_logblocks=LOG_BLOCKS,
    )
    volume.inode(0, REGULAR, EXTENTS)
    return volume


@pytest.fixture(params=[4, 5])
def volume(request: pytest.FixtureRequest) -> XFSVolume:
    return with_log(has_crc=request.param == 5)


def becomes_directory(
    volume: XFSVolume, index: int, block: int
) -> list[bytes]:
    return inode_item(volume, index, EXTENTS, extent(block, 1))


def test_logs_of_unknown_machines_are_refused(volume: XFSVolume) -> None:
    item = becomes_directory(volume, 0, 100)
    LogWriter(volume).write(transaction(item), tail=0, form=3)
    with pytest.raises(UnsupportedFormatError, match="unknown kind 3"):
        map_xfs(volume.source())


def test_a_log_of_another_file_system_is_refused(volume: XFSVolume) -> None:
    item = becomes_directory(volume, 0, 100)
    LogWriter(volume).write(transaction(item), tail=0, uuid=b"x" * 16)
    with pytest.raises(CorruptImageError, match="not the header of a record"):
        map_xfs(volume.source())


def test_a_log_without_records_is_refused(volume: XFSVolume) -> None:
    LogWriter(volume, place=9, cycle=2)
    with pytest.raises(CorruptImageError, match="no record before its end"):
        map_xfs(volume.source())


def test_a_tail_outside_the_log_is_refused(volume: XFSVolume) -> None:
    item = becomes_directory(volume, 0, 100)
    LogWriter(volume).write(transaction(item), tail=SECTORS)
    with pytest.raises(CorruptImageError, match="begins outside itself"):
        map_xfs(volume.source())


def malformed(volume: XFSVolume) -> dict[str, list[bytes]]:
    """Operations that a kernel does not write, by what is said of them."""
    head, core, fork = becomes_directory(volume, 0, 100)
    bad_core = bytes(2) + core[2:]
    no_inode = struct.pack("<HHI", INODE_ITEM, 1, CORE) + head[8:]
    wide_core = core[:82] + b"\xff" + core[83:]
    tree = inode_item(volume, 0, BTREE, bytes(20), fields=DATA_ROOT)
    level = bytes(4) + struct.pack(">HH", 1, 999)
    long_tree = inode_item(
        volume, 0, BTREE, level.ljust(88, b"\0"), fields=DATA_ROOT
    )
    return {
        "item has no inode": transaction([no_inode]),
        "forks do not fit": transaction([head, wide_core, fork]),
        "root of an extent tree is too short": transaction(tree),
        "root of an extent tree is too long": transaction(long_tree),
        "does not fit its record": [
            struct.pack(">IIBBH", 7, 9999, 0, START_FLAG, 0)
        ],
        "too short": transaction([b"ab"]),
        "of type 0x1 ": transaction([struct.pack("<HH", 1, 1)]),
        "0x123b is not whole": transaction([head, core]),
        "impossible size": transaction([head[:40], core, fork]),
        "inode in an item is not one": transaction([head, bad_core, fork]),
        "inode in an item is too short": transaction([head, core[:60], fork]),
        "fork is too long": transaction([head, core, fork * 40]),
        "outside its buffer": transaction(
            inode_item(volume, 0, EXTENTS, fork, offset=64 * INODE)
        ),
        "map is too short": transaction(
            [struct.pack("<HHHHqI", BUFFER, 1, 0, 1, 8, 99)]
        ),
        "buffer's item is too short": transaction(
            [struct.pack("<HHHH", BUFFER, 1, 0, 1)]
        ),
        "buffer's item is not whole": transaction(
            buffer_item(8, 2, [0, 1], bytes(128))
        ),
        "outside the volume": transaction(
            buffer_item(1 << 40, 2, [0], bytes(128))
        ),
    }


WORDS = tuple(malformed(with_log()))


@pytest.mark.parametrize("words", WORDS)
def test_malformed_items_are_refused(volume: XFSVolume, words: str) -> None:
    LogWriter(volume).write(malformed(volume)[words], tail=0)
    with pytest.raises(CorruptImageError, match=words):
        map_xfs(volume.source())


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0, "record at block 0 is too long"),
        (2048, "record at block 0 is too long"),
        (1 << 30, "the size of a log record is"),
        (40 << 10, "record at block 0 lacks headers"),
    ],
)
def test_impossible_lengths_of_records_are_refused(
    length: int, words: str
) -> None:
    """In version 4: no checksum shields them."""
    volume = with_log(has_crc=False)
    writer = LogWriter(volume, cycle=2)
    item = becomes_directory(volume, 0, 100)
    writer.write(transaction(item), tail=0)
    if length == 40 << 10:
        for _ in range(41):
            writer.write(transaction(item), tail=0)
    else:
        writer.write(transaction(item), tail=0)
    struct.pack_into(">I", volume.data, LOG_START * BLOCK + 12, length)
    with pytest.raises((CorruptImageError, LimitExceededError), match=words):
        map_xfs(volume.source())


def test_a_transaction_may_end_in_an_unmount(volume: XFSVolume) -> None:
    operations = [operation(START_FLAG), operation(UNMOUNT, bytes(8))]
    LogWriter(volume).write(operations, tail=0)
    assert len(map_xfs(volume.source()).notes) == 2


def test_memory_for_the_log_is_bounded(
    volume: XFSVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = becomes_directory(volume, 0, 100)
    LogWriter(volume).write(transaction(item), tail=0)
    monkeypatch.setattr(replay, "MAX_REPLAYED_BYTES", 511)
    with pytest.raises(LimitExceededError, match="metadata in the XFS log"):
        map_xfs(volume.source())
    monkeypatch.setattr(logitem, "MAX_OPEN_TRANSACTIONS", 0)
    with pytest.raises(LimitExceededError, match="open log transactions"):
        map_xfs(volume.source())
