"""The log of XFS: where it ends, and what its transactions do to the map."""

from __future__ import annotations

import struct

import pytest

from tests.support.xfslog import (
    ATTRIBUTE_EXTENTS,
    CANCEL,
    COMMIT,
    CONTINUE,
    DATA_ROOT,
    END,
    INODE_BUFFER,
    LOG_BLOCKS,
    LOG_START,
    SECTORS,
    START_FLAG,
    TRANSACTION,
    UNMOUNT,
    WAS_CONTINUED,
    LogWriter,
    buffer_item,
    inode_item,
    operation,
    transaction,
)
from tests.support.xfsvolume import (
    BLOCK,
    BTREE,
    CHUNK,
    EXTENTS,
    INODE,
    REGULAR,
    XFSVolume,
    extent,
    root,
)
from vmsec.errors import (
    CorruptImageError,
)
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.xfs import map_xfs
from vmsec.ondisk.xfs.log import Log
from vmsec.ondisk.xfs.superblock import parse_superblock

CHUNK_SECTOR = CHUNK * BLOCK // 512
CHUNK_SECTORS = 64 * INODE // 512


def with_log(*, has_crc: bool = True) -> XFSVolume:
    """A volume with one regular file, inode 0 of its first chunk."""
    volume = XFSVolume(
        1,
        has_crc=has_crc,
        sb_logstart=LOG_START,
        sb_logblocks=LOG_BLOCKS,
    )
    for index in range(3):
        volume.inode(index, REGULAR, EXTENTS)
    return volume


@pytest.fixture(params=[4, 5])
def volume(request: pytest.FixtureRequest) -> XFSVolume:
    return with_log(has_crc=request.param == 5)


def directories(volume: XFSVolume) -> list[int]:
    """Map it; return the blocks of directories."""
    return [
        block
        for item in map_xfs(volume.source()).extents
        if item.kind is MetadataClass.DIRECTORY
        for block in range(item.offset // BLOCK, item.end // BLOCK)
    ]


def becomes_directory(
    volume: XFSVolume, index: int, block: int
) -> list[bytes]:
    """The item of an inode that becomes a directory of one block."""
    return inode_item(volume, index, EXTENTS, extent(block, 1))


def test_a_log_that_was_never_written_is_clean(volume: XFSVolume) -> None:
    found = map_xfs(volume.source())
    assert found.notes == ()
    kinds = {item.kind: item.length for item in found.extents}
    assert kinds[MetadataClass.JOURNAL] == LOG_BLOCKS * BLOCK


def test_an_unmounted_volume_is_clean_whatever_came_before(
    volume: XFSVolume,
) -> None:
    writer = LogWriter(volume)
    item = becomes_directory(volume, 0, 100)
    writer.write(transaction(item), tail=0)
    writer.write([operation(UNMOUNT, b"nU      ")], tail=0)
    assert map_xfs(volume.source()).notes == ()
    assert directories(volume) == []


def test_a_committed_inode_is_taken_over(volume: XFSVolume) -> None:
    writer = LogWriter(volume)
    item = becomes_directory(volume, 1, 100)
    writer.write(transaction(item), tail=0)
    assert directories(volume) == [100]
    notes = map_xfs(volume.source()).notes
    assert notes == (
        "the guest did not unmount the file system",
        "1 sectors of its log were taken into account",
    )


def test_the_last_change_wins(volume: XFSVolume) -> None:
    writer = LogWriter(volume)
    for block in (100, 101, 102):
        item = becomes_directory(volume, 1, block)
        writer.write(transaction(item), tail=0)
    assert directories(volume) == [102]


def test_records_before_the_tail_do_not_count(volume: XFSVolume) -> None:
    writer = LogWriter(volume)
    writer.write(transaction(becomes_directory(volume, 0, 100)), tail=0)
    tail = writer.place
    writer.write(transaction(becomes_directory(volume, 1, 101)), tail=tail)
    assert directories(volume) == [101]


def test_what_was_not_committed_does_not_count(volume: XFSVolume) -> None:
    item = becomes_directory(volume, 1, 100)
    writer = LogWriter(volume)
    writer.write(transaction(item, commit=False), tail=0)
    headless = transaction(item, number=9)[1:]
    writer.write(headless, tail=0)
    assert directories(volume) == []


def test_transactions_may_be_interleaved(volume: XFSVolume) -> None:
    first = transaction(becomes_directory(volume, 0, 100), number=1)
    second = transaction(becomes_directory(volume, 1, 101), number=2)
    mixed = [op for pair in zip(first, second, strict=True) for op in pair]
    LogWriter(volume).write(mixed, tail=0)
    assert directories(volume) == [100, 101]


@pytest.mark.parametrize("cut", [4, 30, 56])
def test_an_operation_may_be_continued_in_the_next_record(
    volume: XFSVolume, cut: int
) -> None:
    head, core, fork = becomes_directory(volume, 1, 100)
    writer = LogWriter(volume)
    writer.write(
        [
            operation(START_FLAG),
            operation(CONTINUE, TRANSACTION[:9]),
            operation(WAS_CONTINUED | END, TRANSACTION[9:]),
            operation(CONTINUE, head[:cut]),
        ],
        tail=0,
    )
    writer.write(
        [
            operation(WAS_CONTINUED | END, head[cut:]),
            operation(CONTINUE, core[:50]),
            operation(WAS_CONTINUED | CONTINUE, core[50:90]),
            operation(WAS_CONTINUED | END, core[90:]),
            operation(0, fork),
            operation(COMMIT),
        ],
        tail=0,
    )
    assert directories(volume) == [100]


def test_the_ring_goes_on_at_its_beginning(volume: XFSVolume) -> None:
    writer = LogWriter(volume, place=SECTORS - 5, cycle=7)
    tail = writer.place
    for block in range(100, 107):
        item = becomes_directory(volume, block % 3, block)
        writer.write(transaction(item), tail=tail)
    assert writer.cycle == 8
    assert directories(volume) == [104, 105, 106]


@pytest.mark.parametrize("start", range(0, SECTORS, 9))
def test_the_end_is_found_wherever_it_is(start: int) -> None:
    volume = with_log()
    writer = LogWriter(volume, place=start, cycle=4)
    tail = writer.place
    for block in range(100, 106):
        item = becomes_directory(volume, 0, block)
        writer.write(transaction(item), tail=tail)
    assert directories(volume) == [105]


def test_a_record_that_lacks_its_end_does_not_count(
    volume: XFSVolume,
) -> None:
    writer = LogWriter(volume, cycle=3)
    writer.write(transaction(becomes_directory(volume, 0, 100)), tail=0)
    writer.write(transaction(becomes_directory(volume, 0, 101)), tail=0)
    at = LOG_START * BLOCK + (writer.place - 1) * 512
    volume.data[at : at + 4] = struct.pack(">I", 2)
    assert directories(volume) == [100]


def test_a_last_record_with_a_wrong_checksum_does_not_count() -> None:
    volume = with_log()
    writer = LogWriter(volume)
    for block, damage in ((100, 0), (101, 1), (102, 0)):
        item = becomes_directory(volume, 0, block)
        writer.write(transaction(item), tail=0, damage=damage)
    assert directories(volume) == [100]


@pytest.mark.parametrize("start", [0, 60, 70, SECTORS - 3])
def test_nothing_behind_a_hole_counts(volume: XFSVolume, start: int) -> None:
    """Records are written side by side; the second one did not arrive."""
    writer = LogWriter(volume, place=start, cycle=3)
    places = []
    for block in (100, 101, 102):
        item = becomes_directory(volume, 0, block)
        places.append(writer.write(transaction(item), tail=start))
    for sector in range(places[1], places[1] + 2):
        at = LOG_START * BLOCK + sector % SECTORS * 512
        old = 2 + (sector >= SECTORS)
        volume.data[at : at + 4] = struct.pack(">I", old)
    assert directories(volume) == [100]


def test_a_wrong_checksum_far_from_the_end_is_refused() -> None:
    volume = with_log()
    writer = LogWriter(volume)
    for block, damage in ((100, 1), (101, 0), (102, 0)):
        item = becomes_directory(volume, 0, block)
        writer.write(transaction(item), tail=0, damage=damage)
    source = volume.source()
    log = Log(source, parse_superblock(source))
    log._window = 3
    found = log.find_extent()
    assert found is not None
    with pytest.raises(CorruptImageError, match="record at block 0 is damag"):
        list(log.records(found))


def test_logged_parts_of_buffers_are_taken_over(volume: XFSVolume) -> None:
    """Inode 3 gets in use by the tree, and its buffer is logged."""
    other = with_log(has_crc=volume.has_crc)
    other.inode(3, 0x4000, EXTENTS, extent(100, 1))
    made = other.build()
    tree = bytes(made[4 * BLOCK : 5 * BLOCK])
    inode = bytes(made[CHUNK * BLOCK + 3 * INODE :][:INODE])
    items = [
        buffer_item(8, 2, [0, 2], tree[:128], tree[256:384]),
        buffer_item(
            CHUNK_SECTOR + 2, 2, [4, 5, 6, 7], inode[:128], inode[128:]
        ),
    ]
    LogWriter(volume).write(transaction(*items), tail=0)
    assert directories(volume) == [100]


def test_cancelled_buffers_are_left_alone_until_then(
    volume: XFSVolume,
) -> None:
    cancel = buffer_item(CHUNK_SECTOR, CHUNK_SECTORS, [], flags=CANCEL)
    writer = LogWriter(volume)
    junk = buffer_item(8, 2, [0], b"\xff" * 128)
    writer.write(transaction(becomes_directory(volume, 0, 100), junk), tail=0)
    writer.write(
        transaction(cancel, buffer_item(8, 2, [], flags=CANCEL)), tail=0
    )
    writer.write(transaction(becomes_directory(volume, 1, 101)), tail=0)
    assert directories(volume) == [101]


@pytest.mark.parametrize("flags", [INODE_BUFFER, 4, 8, 16])
def test_unlinked_lists_and_quotas_are_not_replayed(
    volume: XFSVolume, flags: int
) -> None:
    item = buffer_item(8, 2, [0], b"\xff" * 128, flags=flags)
    LogWriter(volume).write(transaction(item), tail=0)
    assert directories(volume) == []


def test_roots_of_extent_trees_come_in_another_form(
    volume: XFSVolume,
) -> None:
    header = 72 if volume.has_crc else 24
    head = struct.pack(">4sHH", b"BMA3", 1, 1).ljust(header, b"\0")
    fork = head + struct.pack(">4Q", 0, 0, 90, 0)
    volume.long_block(90, 0, extent(100, 1), 1)
    item = inode_item(volume, 0, BTREE, fork, fields=DATA_ROOT)
    LogWriter(volume).write(transaction(item), tail=0)
    assert directories(volume) == [100]
    tree = root(1, [90], volume.fork_bytes)
    assert struct.unpack(">HH", tree[:4]) == (1, 1)


def test_logs_of_big_endian_machines_are_understood(
    volume: XFSVolume,
) -> None:
    item = inode_item(volume, 0, EXTENTS, extent(100, 1), order=">")
    LogWriter(volume).write(transaction(item), tail=0, form=2)
    assert directories(volume) == [100]


def test_attribute_forks_come_after_data_forks(volume: XFSVolume) -> None:
    head, core, _ = inode_item(
        volume, 0, EXTENTS, b"", fields=ATTRIBUTE_EXTENTS, extents=0
    )
    core = core[:80] + struct.pack("<HBB", 1, 10, EXTENTS) + core[84:]
    item = [head, core, extent(100, 1)]
    LogWriter(volume).write(transaction(item), tail=0)
    found = map_xfs(volume.source())
    assert MetadataClass.XATTR in {item.kind for item in found.extents}
