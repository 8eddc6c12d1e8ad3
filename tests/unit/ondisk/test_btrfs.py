"""What a Btrfs may say, and each lie by name."""

from __future__ import annotations

import hashlib
import re
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.btrfs_volume import (
    DATA,
    DUP,
    METADATA,
    MIB,
    NODE,
    RAID0,
    SUPERBLOCK,
    SYSTEM,
    SYSTEM_AT,
    BtrfsVolume,
    Chunk,
    metadata_chunk,
    system_chunk,
)
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk import limits, probe
from vmsec.ondisk.btrfs import is_btrfs, map_btrfs
from vmsec.ondisk.btrfs.superblock import CHECKSUMS
from vmsec.ondisk.btrfs.xxhash64 import xxhash64
from vmsec.ondisk.extent import BOOT_CLASSES, MetadataClass
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from vmsec.ondisk.extent import VolumeMap


def mapped(volume: BtrfsVolume) -> VolumeMap:
    return map_btrfs(MemorySource(volume.build()))


def places(found: VolumeMap) -> list[tuple[str, int, int]]:
    return [(e.kind.value, e.offset, e.length) for e in found.extents]


OWN = [
    ("boot-sector", 0, SUPERBLOCK),
    ("superblock", SUPERBLOCK, 4096),
    ("system-chunk", MIB, MIB),
]
PLAIN = [
    *OWN,
    ("chunk", 3 * MIB, MIB),
    ("chunk", 5 * MIB, MIB),
]


@pytest.mark.parametrize("checksum", [0, 2])
@pytest.mark.parametrize("levels", [0, 1, 7])
def test_superblocks_and_all_copies_of_chunks_are_mapped(
    checksum: int, levels: int
) -> None:
    found = mapped(BtrfsVolume(checksum=checksum, levels=levels))
    assert places(found) == PLAIN
    assert (found.filesystem, found.notes) == ("btrfs", ())


def test_the_map_of_addresses_goes_at_every_level() -> None:
    assert MetadataClass.SYSTEM_CHUNK in BOOT_CLASSES
    assert MetadataClass.CHUNK not in BOOT_CLASSES


def test_every_mirror_of_the_superblock_inside_is_mapped() -> None:
    found = mapped(BtrfsVolume(size=65 * MIB))
    assert ("superblock", 64 * MIB, 4096) in places(found)
    found = mapped(BtrfsVolume(size=64 * MIB + 4095))
    assert places(found) == PLAIN


def test_contents_in_chunks_of_their_own_are_not_mapped() -> None:
    data = Chunk(64 * MIB, MIB, DATA | RAID0, [(1, 6 * MIB), (2, 6 * MIB)])
    volume = BtrfsVolume(chunks=[system_chunk(), metadata_chunk(), data])
    assert places(mapped(volume)) == PLAIN


def test_chunks_of_data_and_metadata_are_mapped_and_told() -> None:
    mixed = Chunk(64 * MIB, MIB, DATA | METADATA, [(1, 6 * MIB)])
    found = mapped(BtrfsVolume(chunks=[system_chunk(), mixed]))
    assert places(found) == [*OWN, ("chunk", 6 * MIB, MIB)]
    assert "share chunks" in found.notes[0]


def test_what_the_guest_left_is_told() -> None:
    fields = {56: struct.pack("<Q", 5), 96: struct.pack("<Q", 4096)}
    notes = mapped(BtrfsVolume(fields=fields)).notes
    assert notes == (
        "the guest did not unmount the file system",
        "the guest has seen errors; run 'btrfs check'",
    )


def test_nodes_bear_the_metadata_uuid_where_there_is_one() -> None:
    incompat = struct.pack("<Q", 0x341 | 1 << 10)
    volume = BtrfsVolume(fields={188: incompat})
    assert places(mapped(volume)) == PLAIN
    volume.fields = {188: struct.pack("<Q", 0x341)}
    data = volume.build()
    volume.fields = {188: incompat}
    data[SUPERBLOCK : SUPERBLOCK + 4096] = volume.superblock()
    with pytest.raises(CorruptImageError, match="no copy"):
        map_btrfs(MemorySource(data))


def test_a_damaged_copy_of_the_chunk_tree_is_passed_over() -> None:
    both = Chunk(SYSTEM_AT, MIB, SYSTEM | DUP, [(1, MIB), (1, 2 * MIB)])
    volume = BtrfsVolume(system=[both], chunks=[both, metadata_chunk()])
    data = volume.build()
    data[MIB + 200] ^= 1
    found = map_btrfs(MemorySource(data))
    assert ("system-chunk", MIB, 2 * MIB) in places(found)
    data[2 * MIB + 200] ^= 1
    with pytest.raises(CorruptImageError, match="no copy of the node"):
        map_btrfs(MemorySource(data))


def quad(value: int) -> bytes:
    return struct.pack("<Q", value)


UNSUPPORTED = {
    r"features 0x1000 \(ZONED\)": {188: quad(0x341 | 1 << 12)},
    r"features 0x10000000000 \(unknown\)": {188: quad(1 << 40)},
    "a dump": {56: quad(1 | 1 << 33)},
    "one of 2 devices": {136: quad(2)},
    "checksums of type 4": {196: b"\x04\0"},
}


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_what_is_not_supported_makes_the_volume_unknown(text: str) -> None:
    source = MemorySource(BtrfsVolume(fields=UNSUPPORTED[text]).build())
    with pytest.raises(UnsupportedFormatError, match=text):
        map_btrfs(source)
    found = probe.probe_volume(source)
    assert found.status is probe.Status.UNKNOWN
    assert re.search(text, found.note)


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (Chunk(0, MIB, METADATA | RAID0, [(1, 0)]), "of profile raid0"),
        (Chunk(0, MIB, METADATA | 1 << 4, [(1, 0)] * 2), "of profile raid1"),
        (Chunk(0, MIB, METADATA, [(2, 0)]), "on another device"),
        (Chunk(0, MIB, METADATA | 1 << 11, [(1, 0)]), "of type 0x804"),
    ],
)
def test_metadata_on_several_devices_makes_the_volume_unknown(
    chunk: Chunk, text: str
) -> None:
    volume = BtrfsVolume(chunks=[system_chunk(), chunk])
    with pytest.raises(UnsupportedFormatError, match=text):
        mapped(volume)


SUPERBLOCK_LIES = {
    "not where it says": {48: quad(64 << 20)},
    "sectors of 512": {144: struct.pack("<I", 512)},
    "nodes of 131072": {148: struct.pack("<I", 131072)},
    "nodes of 4096 bytes at": {144: struct.pack("<I", 8192)},
    "at 1048577 in sectors": {88: quad(SYSTEM_AT + 1)},
    "tree of level 8": {199: b"\x08"},
    "0 bytes of system chunks": {160: bytes(4)},
    "2049 bytes of system chunks": {160: struct.pack("<I", 2049)},
    "names half a chunk": {160: struct.pack("<I", 10)},
    "chunk at 1048576 is cut off": {160: struct.pack("<I", 60)},
    "that is none": {811: quad(255)},
    "is in no system chunk": {88: quad(SYSTEM_AT + MIB)},
    "no copy of the node": {164: quad(8)},
}


@pytest.mark.parametrize("text", SUPERBLOCK_LIES)
def test_a_superblock_that_contradicts_itself_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match=text):
        mapped(BtrfsVolume(fields=SUPERBLOCK_LIES[text]))


def test_a_superblock_with_a_wrong_checksum_is_refused() -> None:
    data = BtrfsVolume().build()
    data[SUPERBLOCK + 300] ^= 1
    with pytest.raises(CorruptImageError, match="checksum is wrong"):
        map_btrfs(MemorySource(data))


@pytest.mark.parametrize("name", ["bytenr", "generation", "owner", "level"])
def test_a_node_that_is_another_one_is_refused(name: str) -> None:
    with pytest.raises(CorruptImageError, match="no copy of the node"):
        mapped(BtrfsVolume(header={name: 5}))


CHUNK_LIES = {
    "has 0 bytes": Chunk(0, 0, METADATA, [(1, 0)]),
    "has 100 bytes": Chunk(0, 100, METADATA, [(1, 0)]),
    "chunk at 100 has": Chunk(100, MIB, METADATA, [(1, 0)]),
    "has 2 stripes": Chunk(0, MIB, METADATA, [(1, 0), (1, MIB)]),
    "has 1 stripes": Chunk(0, MIB, METADATA | DUP, [(1, 0)]),
    "lies outside": Chunk(0, MIB, METADATA, [(1, 7 * MIB + 1)]),
}


@pytest.mark.parametrize("text", CHUNK_LIES)
def test_a_chunk_that_contradicts_itself_is_refused(text: str) -> None:
    volume = BtrfsVolume(chunks=[system_chunk(), CHUNK_LIES[text]])
    with pytest.raises(CorruptImageError, match=text):
        mapped(volume)


def test_a_volume_without_metadata_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="no chunk of metadata"):
        mapped(BtrfsVolume(chunks=[]))


@pytest.mark.parametrize(
    ("levels", "count", "text"),
    [(0, 200, "has 200 items"), (1, 200, "has 200 children"),
     (1, 0, "has 0 children"), (0, 10, "item 3 of the leaf")],
)  # fmt: skip
def test_counts_beyond_a_node_are_refused(
    levels: int, count: int, text: str
) -> None:
    volume = BtrfsVolume(levels=levels)
    volume.header["count"] = count
    with pytest.raises(CorruptImageError, match=text):
        mapped(volume)


def test_a_tree_that_bites_its_tail_is_refused() -> None:
    volume = BtrfsVolume(levels=2)
    volume.build()
    child = SYSTEM_AT + NODE
    volume.write(SYSTEM_AT, volume.inner(SYSTEM_AT, 2, [child, child]))
    with pytest.raises(CorruptImageError, match="is used twice"):
        map_btrfs(MemorySource(volume.disk))


def test_more_nodes_and_stripes_than_anybody_has_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Chunk(0, MIB, DATA, [(n, 0) for n in range(20)])
    volume = BtrfsVolume(chunks=[metadata_chunk(), data], levels=3)
    assert places(mapped(volume)) == PLAIN
    monkeypatch.setattr(limits, "MAX_BTRFS_STRIPES", 19)
    with pytest.raises(LimitExceededError, match="stripes"):
        mapped(volume)
    monkeypatch.setattr(limits, "MAX_BTRFS_CHUNK_NODES", 3)
    with pytest.raises(LimitExceededError, match="number of nodes"):
        mapped(volume)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"as", 0x1C330FB2D66BE179),
        (b"asdf", 0x415872F599CEA71E),
        (
            b"Call me Ishmael. Some years ago--never mind how long precisely-",
            0x02A2E85470D6FD96,
        ),
    ],
)
def test_xxh64_has_its_published_values(data: bytes, value: int) -> None:
    assert xxhash64(data) == value


def test_every_checksum_has_its_published_value_of_abc() -> None:
    assert [CHECKSUMS[n](b"abc").hex() for n in range(4)] == [
        "b73f4b36",
        "990977adf52cbc44",
        hashlib.sha256(b"abc").hexdigest(),
        hashlib.blake2b(b"abc", digest_size=32).hexdigest(),
    ]


def test_what_bears_no_magic_is_no_btrfs() -> None:
    data = BtrfsVolume().build()
    assert is_btrfs(MemorySource(data))
    assert not is_btrfs(MemorySource(data[: SUPERBLOCK + 4095]))
    data[SUPERBLOCK + 64] = 0
    assert not is_btrfs(MemorySource(data))
