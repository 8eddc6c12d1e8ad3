"""What a FAT may say, what is a FAT at all, and each lie by name."""

from __future__ import annotations

import struct

import pytest

from tests.support.label import FATVolume, Record, mbr_sector, short_entry
from vmsec.errors import CorruptImageError, LimitExceededError
from vmsec.ondisk import fat, limits
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.fattable import FATTable
from vmsec.ondisk.source import MemorySource

END = 0x0FFFFFFF


def clusters_of(volume: FATVolume) -> list[int]:
    """The clusters that the map calls directories."""
    found = fat.map_fat(MemorySource(volume.build()))
    return [
        sector - volume.data_sector + 2
        for e in found.extents
        if e.kind is MetadataClass.DIRECTORY
        for sector in range(e.offset // 512, e.end // 512)
        if sector >= volume.data_sector
    ]


def test_reserved_sectors_and_all_tables_are_metadata() -> None:
    volume = FATVolume(fats=2)
    found = fat.map_fat(MemorySource(volume.build()))
    assert [(e.offset // 512, e.length // 512) for e in found.extents] == [
        (0, 32),
        (32, 2 * volume.fat_sectors),
        (volume.data_sector, 1),
    ]
    assert found.filesystem == "vfat"
    assert found.notes == ("FAT32",)


def test_the_fixed_root_of_fat16_is_a_directory() -> None:
    volume = FATVolume(bits=16, clusters=5000, reserved=1)
    found = fat.map_fat(MemorySource(volume.build()))
    assert found.notes == ("FAT16",)
    assert (found.extents[-1].length, found.extents[-1].end) == (
        4 * 512,
        volume.data_sector * 512,
    )


def test_directories_are_found_at_every_depth() -> None:
    volume = FATVolume(
        chains={2: 3, 3: END, 70: 90, 90: 80, 80: END, 60000: END},
        directories={
            2: short_entry(b"FILE", 500, attributes=0x20).ljust(512, b"\x41"),
            3: short_entry(b"SUB", 70),
            80: short_entry(b".", 70)
            + short_entry(b"..", 2)
            + short_entry(b"DEEP", 60000),
        },
    )
    # The first cluster of SUB ends in a free entry: 80 is not read on.
    assert clusters_of(volume) == [2, 3, 70, 80, 90]
    volume.directories[70] = b"\xe5" * 512
    volume.directories[90] = b"\xe5" * 512
    assert clusters_of(volume) == [2, 3, 70, 80, 90, 60000]


def test_fat16_ignores_the_high_word_of_a_cluster() -> None:
    volume = FATVolume(
        bits=16,
        clusters=5000,
        chains={9: 0xFFFF},
        directories={0: short_entry(b"SUB", 0xABCD0009)},
    )
    assert clusters_of(volume) == [9]


@pytest.mark.parametrize(
    "entry",
    [
        short_entry(b"\xe5UB", 9),
        short_entry(b"LABEL", 9, attributes=0x08),
        short_entry(b"LONG", 9, attributes=0x0F),
        short_entry(b"FILE", 9, attributes=0x20),
        short_entry(b"\0AFTER", 9),
    ],
    ids=["deleted", "label", "long name", "file", "behind the end"],
)
def test_what_is_no_live_directory_is_not_followed(entry: bytes) -> None:
    assert clusters_of(FATVolume(directories={2: entry})) == [2]


def test_a_single_active_table_is_the_one_that_is_followed() -> None:
    volume = FATVolume(chains={2: 5, 5: END})
    volume.boot[40] = struct.pack("<H", 0x81)
    data = volume.build()
    first = volume.reserved * 512
    data[first : first + 4096] = b"\xff" * 4096
    found = fat.map_fat(MemorySource(data))
    assert found.extents[-1].offset == (volume.data_sector + 3) * 512


CHAIN_LIES = {
    "leads to 0": {3: 0},
    "leads to 1": {3: 1},
    "leads to 268435447": {3: 0x0FFFFFF7},
    "leads to 70002": {3: 70002},
    "cluster 3 is used twice": {3: 3},
    "cluster 2 is used twice": {3: 2},
}


@pytest.mark.parametrize("text", CHAIN_LIES)
def test_a_chain_that_leads_nowhere_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match=text):
        clusters_of(FATVolume(chains={2: 3, **CHAIN_LIES[text]}))


def test_a_subdirectory_that_is_its_own_parent_is_refused() -> None:
    volume = FATVolume(directories={2: short_entry(b"SUB", 2)})
    with pytest.raises(CorruptImageError, match="cluster 2 is used twice"):
        clusters_of(volume)


def test_a_subdirectory_without_cluster_is_refused() -> None:
    volume = FATVolume(directories={2: short_entry(b"SUB", 0)})
    with pytest.raises(CorruptImageError, match="leads to 0"):
        clusters_of(volume)


def test_a_directory_longer_than_the_format_allows_is_refused() -> None:
    longest = limits.MAX_FAT_DIRECTORY_BYTES // 512
    chains = {n: n + 1 for n in range(2, 2 + longest)}
    volume = FATVolume(chains={**chains, 2 + longest - 1: END})
    assert len(clusters_of(volume)) == longest
    volume.chains = {**chains, 2 + longest: 3 + longest, 3 + longest: END}
    with pytest.raises(LimitExceededError, match="length of a directory"):
        clusters_of(volume)


def test_too_many_directories_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_FAT_DIRECTORIES", 2)
    entries = short_entry(b"A", 10) + short_entry(b"B", 11)
    volume = FATVolume(chains={10: END, 11: END}, directories={2: entries})
    with pytest.raises(LimitExceededError, match="number of directories"):
        clusters_of(volume)


BOOT_LIES = {
    "too short": {36: struct.pack("<I", 100)},
    "do not fit into": {32: struct.pack("<I", 1 << 30)},
    "before the first cluster": {32: struct.pack("<I", 100)},
    "active one of 2": {40: struct.pack("<H", 0x82)},
    "backup boot sector 32": {50: struct.pack("<H", 32)},
    "boot sector 900": {48: struct.pack("<H", 900)},
}


@pytest.mark.parametrize("text", BOOT_LIES)
def test_a_boot_sector_that_contradicts_itself_is_refused(text: str) -> None:
    data = FATVolume(boot=BOOT_LIES[text]).build()
    assert fat.is_fat(MemorySource(data))
    with pytest.raises(CorruptImageError, match=text):
        fat.map_fat(MemorySource(data))


def test_no_fsinfo_and_no_backup_are_allowed() -> None:
    volume = FATVolume(boot={48: b"\xff\xff\0\0"})
    assert clusters_of(volume) == [2]


def test_too_many_clusters_for_fat16_are_refused() -> None:
    volume = FATVolume(bits=16, clusters=65525)
    with pytest.raises(CorruptImageError, match="too many for FAT16"):
        clusters_of(volume)


NOT_FAT = {
    "no jump": {0: b"\x33\xc0\x8e"},
    "NTFS": {3: b"NTFS    "},
    "exFAT": {3: b"EXFAT   "},
    "BitLocker": {3: b"-FVE-FS-"},
    "sector of 768": {11: struct.pack("<H", 768)},
    "cluster of 3": {13: b"\x03"},
    "cluster of 0": {13: b"\x00"},
    "nothing reserved": {14: b"\0\0"},
    "no table": {16: b"\x00"},
    "five tables": {16: b"\x05"},
    "FAT32 with a fixed root": {17: b"\x40\0"},
    "no size": {32: bytes(4)},
    "media E0": {21: b"\xe0"},
    "no table size": {36: bytes(4)},
    "version 1": {42: b"\x01"},
    "root in cluster 1": {44: struct.pack("<I", 1)},
    "no 55AA": {510: b"\0\0"},
}


@pytest.mark.parametrize("reason", NOT_FAT)
def test_an_implausible_boot_sector_is_no_fat(reason: str) -> None:
    assert fat.is_fat(MemorySource(FATVolume().build()))
    data = FATVolume(boot=NOT_FAT[reason]).build()
    assert not fat.is_fat(MemorySource(data))


def test_an_mbr_is_no_fat_even_with_a_jump() -> None:
    sector = bytearray(mbr_sector(Record(0x83, 2048, 4096)))
    sector[:3] = b"\xeb\x63\x90"
    assert not fat.is_fat(MemorySource(sector))
    assert not fat.is_fat(MemorySource(sector[:300]))


def test_twelve_bit_entries_straddle_bytes() -> None:
    packed = bytes.fromhex("f8ffff 034000 ff0f00".replace(" ", ""))
    table = FATTable(MemorySource(packed + bytes(9)), 0, 8, bits=12)
    assert [table.entry(n) for n in range(5)] == [
        0xFF8, 0xFFF, 0x003, 0x004, 0xFFF,
    ]  # fmt: skip
    assert list(table.chain(2)) == [2, 3, 4]


@pytest.mark.parametrize("bits", [16, 32])
def test_a_large_table_is_read_in_windows_that_are_forgotten(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmsec.ondisk.fattable._MAX_WINDOWS", 2)
    count = 500_000
    raw = b"".join(
        (n + 7).to_bytes(4, "little")[: bits // 8] for n in range(count)
    )
    table = FATTable(MemorySource(raw), 0, count - 2, bits=bits)
    mask = (1 << min(bits, 28)) - 1
    for cluster in (2, 98303, 98304, 200_000, count - 1, 2):
        assert table.entry(cluster) == (cluster + 7) & mask
