"""The superblock of XFS: what is refused, and in which words."""

from __future__ import annotations

import pytest

from tests.support.xfsvolume import GROUP_BLOCKS, XFSVolume
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.source import MemorySource
from vmsec.ondisk.xfs import is_xfs, map_xfs
from vmsec.ondisk.xfs.superblock import parse_superblock


def made(fields: dict[str, int], *, has_crc: bool = True) -> XFSVolume:
    volume = XFSVolume(has_crc=has_crc)
    for field, value in fields.items():
        volume.set(field, value)
    return volume


@pytest.mark.parametrize("has_crc", [False, True])
def test_a_sound_volume_is_read(has_crc: bool) -> None:
    sb = parse_superblock(XFSVolume(3, has_crc=has_crc).source())
    assert (sb.group_count, sb.block_bytes, sb.inode_bytes) == (3, 1024, 512)
    assert sb.has_crc is has_crc
    assert sb.special_inodes == ()


def test_only_the_magic_number_makes_it_xfs() -> None:
    assert is_xfs(XFSVolume().source())
    assert not is_xfs(XFSVolume(sb_magicnum=0x58465343).source())
    assert not is_xfs(MemorySource(b"XFSB"))
    with pytest.raises(CorruptImageError, match="magic"):
        parse_superblock(MemorySource(bytes(4096)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sb_features_incompat": 0x101}, r"incompat 0x100 \(METADIR\)"),
        ({"sb_features_incompat": 0x601}, "ZONED, ZONE_GAPS"),
        ({"sb_features_incompat": 1 << 31}, "0x80000000 .unnamed"),
        ({"sb_features_ro_compat": 0x10}, "ro_compat 0x10"),
        ({"sb_features_compat": 1}, "compat 0x1"),
        ({"sb_features_log_incompat": 2}, "log_incompat 0x2"),
        ({"sb_versionnum": 0xB4A6}, "version 6"),
        ({"sb_versionnum": 0xB4A1}, "version 1"),
    ],
)
def test_unknown_features_are_refused_by_name(
    fields: dict[str, int], words: str
) -> None:
    with pytest.raises(UnsupportedFormatError, match=words):
        map_xfs(made(fields).source())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sb_versionnum": 0xB6A4}, "SHARED"),
        ({"sb_versionnum": 0x94A4}, "directories of version 1"),
        ({"sb_features2": 0x9A}, "PARENT"),
        ({"sb_features2": 0x18A}, "CRC"),
    ],
)
def test_unknown_features_of_version_4_are_refused_by_name(
    fields: dict[str, int], words: str
) -> None:
    with pytest.raises(UnsupportedFormatError, match=words):
        map_xfs(made(fields, has_crc=False).source())


def test_second_word_of_version_4_counts_only_where_the_first_says_so() -> (
    None
):
    fields = {"sb_versionnum": 0x34A4, "sb_features2": 0xFFFF}
    map_xfs(made(fields, has_crc=False).source())


def test_known_features_are_all_accepted() -> None:
    incompat = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
    volume = XFSVolume(
        sb_features_incompat=incompat & ~0x4, sb_features_log_incompat=1
    )
    map_xfs(volume.source())


def test_a_volume_that_needs_repair_is_refused() -> None:
    with pytest.raises(CorruptImageError, match=r"NEEDSREPAIR.*xfs_repair"):
        map_xfs(XFSVolume(sb_features_incompat=0x11).source())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sb_blocksize": 1023}, "block size"),
        ({"sb_blocklog": 8, "sb_blocksize": 256}, "block size"),
        ({"sb_blocklog": 255}, "block size"),
        ({"sb_sectsize": 1024}, "sector size"),
        ({"sb_sectlog": 11, "sb_sectsize": 2048}, "sector size"),
        ({"sb_inodesize": 128, "sb_inodelog": 7}, "inode size"),
        ({"sb_inopblock": 3}, "inode size"),
        ({"sb_inopblog": 2}, "inode size"),
        ({"sb_dirblklog": 7}, "directory block size"),
        ({"sb_inprogress": 1}, "unfinished mkfs.xfs"),
        ({"sb_rbmino": 1 << 56}, "inode of a quota"),
        ({"sb_agblocks": 63, "sb_agblklog": 6}, "allocation groups"),
        ({"sb_agblklog": 9}, "allocation groups"),
        ({"sb_agblocks": 0xFFFFFFFF, "sb_agblklog": 32}, "allocation groups"),
        ({"sb_agcount": 0}, "number of allocation groups"),
        ({"sb_agcount": 3}, "number of allocation groups"),
        ({"sb_dblocks": GROUP_BLOCKS + 63}, "number of allocation groups"),
        ({"sb_logstart": 200, "sb_logblocks": 57}, "place of the log"),
        ({"sb_logstart": 2 << 8, "sb_logblocks": 1}, "place of the log"),
        ({"sb_logstart": 1 << 63, "sb_logblocks": 1}, "place of the log"),
        ({"sb_logstart": 9, "sb_logblocks": 0}, "place of the log"),
    ],
)
def test_numbers_that_contradict_one_another_are_refused(
    fields: dict[str, int], words: str
) -> None:
    with pytest.raises(CorruptImageError, match=f"{words}.*xfs_repair"):
        map_xfs(made(fields).source())


def test_a_wrong_checksum_is_refused() -> None:
    data = XFSVolume().build()
    data[108] ^= 1  # sb_fname: nothing else would notice
    with pytest.raises(CorruptImageError, match="checksum"):
        parse_superblock(MemorySource(data))
    assert parse_superblock(MemorySource(data), replayed=True).has_crc


def test_a_volume_larger_than_its_disk_is_refused() -> None:
    data = XFSVolume().build()
    with pytest.raises(CorruptImageError, match="cut short"):
        parse_superblock(MemorySource(data[:-512]))


def test_absurd_numbers_of_groups_pass_a_limit() -> None:
    volume = XFSVolume(sb_agcount=(1 << 20) + 1, sb_dblocks=1 << 60)
    with pytest.raises(LimitExceededError, match="allocation groups"):
        parse_superblock(volume.source())


def test_special_inodes_are_those_of_quotas_and_the_realtime_device() -> None:
    none = (1 << 64) - 1
    fields = {"sb_rbmino": 129, "sb_rsumino": 130, "sb_uquotino": 131}
    sb = parse_superblock(made(fields).source())
    assert sb.special_inodes == (129, 130)
    fields |= {"sb_versionnum": 0xB4E5, "sb_rsumino": none}
    sb = parse_superblock(made(fields).source())
    assert sb.special_inodes == (129, 131)
