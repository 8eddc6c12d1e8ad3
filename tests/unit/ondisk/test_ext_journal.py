"""The journal is replayed as jbd2 does it, in memory only."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.support.extvolume import DIRECTORY, REGULAR, Volume
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.ext import journal, map_ext
from vmsec.ondisk.ext.journal import ReplayedSource, replay_journal
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.source import MemorySource

BLOCK = 1024
MAGIC = 0xC03B3998
DESCRIPTOR, COMMIT, V1, V2, REVOKE = 1, 2, 3, 4, 5
BIT64, CSUM_V2, CSUM_V3, FAST_COMMIT = 0x2, 0x8, 0x10, 0x20
FIRST_LOG_BLOCK = 100
LOG_BLOCKS = 40
ESCAPED, SAME_UUID, LAST = 1, 2, 8


class Log:
    """A disk whose journal begins at block 100."""

    def __init__(
        self, *, incompat: int = 0, kind: int = V2, blocks: int = LOG_BLOCKS
    ) -> None:
        self.disk = bytearray(max(200, 100 + blocks) * BLOCK)
        self.incompat, self.blocks = incompat, blocks
        self.head(kind=kind)

    def head(self, start: int = 1, sequence: int = 7, kind: int = V2) -> None:
        content = struct.pack(
            *(">III", MAGIC, kind, 0),
        ) + struct.pack(
            *(">IIIIIIII", BLOCK, self.blocks, 1, sequence, start, 0, 0),
            self.incompat,
        )
        self.put(0, content)

    def put(self, index: int, content: bytes) -> None:
        at = (FIRST_LOG_BLOCK + index) * BLOCK
        self.disk[at : at + len(content)] = content

    def describe(
        self, index: int, sequence: int, blocks: list[int], escaped: int = 0
    ) -> None:
        """Write a descriptor and, behind it, blocks filled with letters."""
        body = b""
        for number, block in enumerate(blocks):
            flags = SAME_UUID if number else 0
            flags |= LAST if number == len(blocks) - 1 else 0
            flags |= ESCAPED if block == escaped else 0
            body += self.tag(block, flags)
            body += b"" if number else bytes(16)
        header = struct.pack(">III", MAGIC, DESCRIPTOR, sequence)
        self.put(index, header + body)
        for number in range(len(blocks)):
            at = (index + number) % (LOG_BLOCKS - 1) + 1
            self.put(at, bytes([sequence, at]) * (BLOCK // 2))

    def tag(self, block: int, flags: int) -> bytes:
        low, high = block & 0xFFFFFFFF, block >> 32
        if self.incompat & CSUM_V3:
            return struct.pack(">IIII", low, flags, high, 0xABCDEF01)
        tag = struct.pack(">IHH", low, 0x1234, flags)
        tag += struct.pack(">I", high) if self.incompat & BIT64 else b""
        return tag + (bytes(2) if self.incompat & CSUM_V2 else b"")

    def commit(self, index: int, sequence: int) -> None:
        self.put(index, struct.pack(">III", MAGIC, COMMIT, sequence))

    def revoke(self, index: int, sequence: int, blocks: list[int]) -> None:
        form = ">Q" if self.incompat & BIT64 else ">I"
        body = b"".join(struct.pack(form, block) for block in blocks)
        header = (MAGIC, REVOKE, sequence, 16 + len(body))
        self.put(index, struct.pack(">IIII", *header) + body)

    def replay(self) -> ReplayedSource:
        log = np.arange(FIRST_LOG_BLOCK, FIRST_LOG_BLOCK + self.blocks)
        return replay_journal(MemorySource(bytes(self.disk)), BLOCK, log)

    def seen(self, block: int) -> tuple[int, int]:
        """Return (sequence, log index) that a block shows, or zeros."""
        data = self.replay().read_at(block * BLOCK, BLOCK)
        assert data == data[:2] * (BLOCK // 2)
        return data[0], data[1]


FORMATS = [0, BIT64, CSUM_V2, CSUM_V2 | BIT64, CSUM_V3, CSUM_V3 | BIT64]


@pytest.mark.parametrize("incompat", FORMATS)
def test_committed_blocks_stand_at_their_places(incompat: int) -> None:
    log = Log(incompat=incompat)
    log.describe(1, 7, [30, 31, 32])
    log.commit(5, 7)
    log.describe(6, 8, [31])
    log.commit(8, 8)
    assert [log.seen(block) for block in (30, 31, 32, 33)] == [
        *((7, 2), (8, 7), (7, 4), (0, 0))
    ]
    assert log.replay().replayed_blocks == 3


def test_transaction_without_its_commit_does_not_count() -> None:
    log = Log()
    log.describe(1, 7, [30])
    log.commit(3, 7)
    log.describe(4, 8, [30])
    assert log.seen(30) == (7, 2)


def test_replay_ends_where_an_older_round_begins() -> None:
    log = Log()
    log.describe(1, 7, [30])
    log.commit(3, 7)
    log.describe(4, 5, [30])
    log.commit(6, 5)
    assert log.seen(30) == (7, 2)


def test_clean_journal_changes_nothing() -> None:
    log = Log()
    log.describe(1, 7, [30])
    log.commit(3, 7)
    log.head(start=0)
    assert log.replay().replayed_blocks == 0


@pytest.mark.parametrize("incompat", [0, BIT64])
def test_revoked_block_is_left_until_it_is_logged_again(incompat: int) -> None:
    log = Log(incompat=incompat)
    log.describe(1, 7, [30, 31, 32])
    log.revoke(5, 7, [31])
    log.commit(6, 7)
    log.revoke(7, 8, [32])
    log.commit(8, 8)
    log.revoke(9, 9, [])
    log.describe(10, 9, [32])
    log.commit(12, 9)
    assert log.seen(30) == (7, 2)
    assert log.seen(31) == (0, 0)
    assert log.seen(32) == (9, 11)


def test_revocation_without_its_commit_does_not_count() -> None:
    log = Log()
    log.describe(1, 7, [30])
    log.commit(3, 7)
    log.revoke(4, 8, [30])
    assert log.seen(30) == (7, 2)


def test_escaped_block_gets_its_magic_back() -> None:
    log = Log()
    log.describe(1, 7, [30, 31], escaped=31)
    log.commit(4, 7)
    view = log.replay()
    assert view.read_at(31 * BLOCK, 6) == struct.pack(">I", MAGIC) + b"\7\3"
    assert view.read_at(31 * BLOCK + 2, 2) == b"\x39\x98"
    assert view.read_at(30 * BLOCK, 4) == b"\7\2\7\2"


def test_log_and_sequence_go_round() -> None:
    log = Log()
    log.head(start=38, sequence=0xFFFFFFFF)
    header = struct.pack(">III", MAGIC, DESCRIPTOR, 0xFFFFFFFF)
    tags = log.tag(30, 0) + bytes(16) + log.tag(31, SAME_UUID | LAST)
    log.put(38, header + tags)
    log.put(39, b"a" * BLOCK)
    log.put(1, b"b" * BLOCK)
    log.commit(2, 0xFFFFFFFF)
    log.revoke(3, 0, [30])
    log.commit(4, 0)
    assert log.replay().read_at(31 * BLOCK, 3) == b"bbb"
    assert log.replay().read_at(30 * BLOCK, 3) == bytes(3)


def test_log_full_of_descriptors_ends_after_one_round() -> None:
    log = Log()
    for index in range(1, LOG_BLOCKS):
        log.put(index, struct.pack(">III", MAGIC, REVOKE, 7) + b"\0\0\0\x10")
    assert log.replay().replayed_blocks == 0


@pytest.mark.parametrize(
    ("length", "fast", "end"),
    [(1300, 100, 1200), (1300, 0, 1044), (1100, 100, 1100)],
)
def test_ring_ends_before_the_fast_commit_area(
    length: int, fast: int, end: int
) -> None:
    """Unless fewer than 1,024 blocks would remain (fs/jbd2/journal.c)."""
    log = Log(incompat=FAST_COMMIT, blocks=length)
    log.head(start=end - 1)
    struct.pack_into(">I", log.disk, FIRST_LOG_BLOCK * BLOCK + 0x54, fast)
    header = struct.pack(">III", MAGIC, DESCRIPTOR, 7)
    log.put(end - 1, header + log.tag(30, LAST))
    log.put(1, b"a" * BLOCK)
    log.commit(2, 7)
    assert log.replay().read_at(30 * BLOCK, 2) == b"aa"


def test_number_of_revocations_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "MAX_REVOKED", 3)
    log = Log()
    log.revoke(1, 7, [1, 2])
    log.revoke(2, 7, [3])
    log.commit(3, 7)
    log.replay()
    log.revoke(4, 8, [4])
    log.commit(5, 8)
    with pytest.raises(LimitExceededError, match="revoked"):
        log.replay()
    log.revoke(2, 7, [3, 4])
    with pytest.raises(LimitExceededError, match="revoked"):
        log.replay()


def test_unknown_kind_of_block_ends_the_replay() -> None:
    log = Log()
    log.put(1, struct.pack(">III", MAGIC, 9, 7))
    log.commit(2, 7)
    assert log.replay().replayed_blocks == 0


def test_descriptor_without_a_last_tag_ends_with_its_block() -> None:
    log = Log(incompat=CSUM_V3)
    tags = b"".join(log.tag(30, SAME_UUID) for _ in range(63))
    log.put(1, struct.pack(">III", MAGIC, DESCRIPTOR, 7) + tags)
    log.commit((1 + 63) % (LOG_BLOCKS - 1) + 1, 7)
    assert log.replay().replayed_blocks == 0  # more than one round


def test_block_outside_the_volume_is_dropped() -> None:
    log = Log(incompat=BIT64)
    log.describe(1, 7, [200, 1 << 40, 30])
    log.commit(5, 7)
    assert log.replay().replayed_blocks == 1


def test_reads_across_blocks_are_patched_at_every_cut() -> None:
    log = Log()
    log.describe(1, 7, [30, 32])
    log.commit(4, 7)
    view = log.replay()
    whole = bytearray(log.disk)
    for block, index in ((30, 2), (32, 3)):
        at = block * BLOCK
        whole[at : at + BLOCK] = bytes([7, index]) * (BLOCK // 2)
    for start in range(29 * BLOCK - 3, 33 * BLOCK, 509):
        for length in (0, 1, 700, 1024, 3000):
            end = start + length
            assert view.read_at(start, length) == bytes(whole[start:end])
    assert view.size_bytes == len(whole)
    assert view.sector_bytes == 512
    with pytest.raises(CorruptImageError):
        view.read_at(200 * BLOCK, 1)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 1),
        (4, 2),
        (12, 512),
        (16, 41),
        (16, 0),
        (20, 0),
        (20, 40),
        (28, 40),
    ],
)
def test_journal_superblock_that_is_none_is_refused(
    offset: int, value: int
) -> None:
    log = Log()
    struct.pack_into(">I", log.disk, FIRST_LOG_BLOCK * BLOCK + offset, value)
    with pytest.raises(CorruptImageError, match="e2fsck"):
        log.replay()


def test_unknown_journal_feature_is_refused_and_none_exists_in_v1() -> None:
    with pytest.raises(UnsupportedFormatError, match="0x40"):
        Log(incompat=0x40).replay()
    assert Log(incompat=0x40, kind=V1).replay().replayed_blocks == 0


def test_empty_journal_file_and_wrong_revocation_are_refused() -> None:
    log = Log()
    with pytest.raises(CorruptImageError):
        replay_journal(MemorySource(bytes(log.disk)), BLOCK, np.zeros(0, int))
    log.put(1, struct.pack(">IIII", MAGIC, REVOKE, 7, 9999))
    with pytest.raises(CorruptImageError, match="revocation"):
        log.replay()


def test_directory_that_only_the_journal_knows_is_mapped() -> None:
    volume = Volume(
        s_feature_compat=0x4, s_feature_incompat=0x4, s_journal_inum=8
    )
    volume.put_inode(8, REGULAR, [*range(100, 112), 112])
    volume.put_words(112, list(range(113, 113 + LOG_BLOCKS - 12)))
    before = bytes(volume.data)
    volume.put_inode(40, DIRECTORY, [222])
    log = Log()
    changed = [4, 5 + 39 * 128 // BLOCK]
    log.describe(1, 7, changed)
    log.commit(4, 7)
    records = bytearray(log.disk[100 * BLOCK : 140 * BLOCK])
    for index, block in enumerate(changed, 2):
        content = volume.data[block * BLOCK : (block + 1) * BLOCK]
        records[index * BLOCK : (index + 1) * BLOCK] = content
    disk = bytearray(before)
    # File blocks 12 and more lie one further: block 112 is indirect.
    disk[100 * BLOCK : 112 * BLOCK] = records[: 12 * BLOCK]
    disk[113 * BLOCK : 141 * BLOCK] = records[12 * BLOCK :]
    result = map_ext(MemorySource(bytes(disk)))
    assert (222 * BLOCK, BLOCK, MetadataClass.DIRECTORY) in result.extents
    assert "2 blocks of its journal" in result.notes[1]
