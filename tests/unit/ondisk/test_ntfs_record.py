"""FILE records and the way to them: fixups, attributes, a fragmented $MFT."""

from __future__ import annotations

import struct

import pytest

from tests.support.ntfs_records import (
    BITMAP,
    DATA,
    LIST,
    NAME,
    STANDARD,
    SparseSource,
    Volume,
    away,
    extension_of,
    file_name,
    list_entry,
    record,
    resident,
    standard,
)
from vmsec.errors import CorruptImageError, LimitExceededError
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.ntfs import map_ntfs
from vmsec.ondisk.ntfs import mft as mft_module

MFT_AT = 4 * 4096


def patched(number: int, place: int, data: bytes, raw: bytes) -> SparseSource:
    """A volume with one record, some bytes of it replaced."""
    raw = raw[:place] + data + raw[place + len(data) :]
    return Volume(records={number: raw}).source()


def usual() -> bytes:
    return record(standard(), file_name(5, "a"), away(DATA, [(500, 2)]))


def test_an_unused_record_may_hold_anything() -> None:
    empty = Volume().source()
    for raw in (
        record(flags=0, magic=b"BAAD"),
        bytes(22) + b"\xfe\xff" + b"\xff" * 1000,
        record(flags=0)[:510] + b"!!" + bytes(512),
    ):
        source = Volume(records={30: raw}).source()
        assert map_ntfs(source) == map_ntfs(empty)


@pytest.mark.parametrize("magic", [b"BAAD", b"RCRD", b"\0\0\0\0"])
def test_a_used_record_that_was_marked_bad_is_refused(magic: bytes) -> None:
    source = Volume(records={30: record(magic=magic)}).source()
    with pytest.raises(
        CorruptImageError, match=r"record 30: .*; run chkdsk in the guest"
    ):
        map_ntfs(source)


@pytest.mark.parametrize("place", [510, 1022])
def test_a_torn_record_is_refused_by_its_number(place: int) -> None:
    source = patched(33, place, b"\x99\x99", usual())
    with pytest.raises(CorruptImageError, match=r"record 33: torn.*chkdsk"):
        map_ntfs(source)


@pytest.mark.parametrize(
    ("place", "data"),
    [(4, b"\x31\0"), (4, b"\xfa\x01"), (4, b"\xff\xff"), (6, b"\x02\0")],
)
def test_a_senseless_update_sequence_is_refused(
    place: int, data: bytes
) -> None:
    with pytest.raises(CorruptImageError, match="update sequence array"):
        map_ntfs(patched(30, place, data, usual()))


@pytest.mark.parametrize(
    ("place", "data"),
    [
        (20, b"\0\0"),
        (20, b"\x39\0"),
        (20, b"\xf8\xff"),
        (24, b"\xff\xff\xff\xff"),
        (24, b"\x38\0\0\0"),
    ],
)
def test_a_record_head_that_leaves_the_record_is_refused(
    place: int, data: bytes
) -> None:
    with pytest.raises(CorruptImageError, match="wrong record head"):
        map_ntfs(patched(30, place, data, usual()))


@pytest.mark.parametrize("length", [0, 8, 25, 0x10000, 0xFFFFFFF8])
def test_an_attribute_that_leaves_its_record_is_refused(length: int) -> None:
    data = struct.pack("<I", length)
    with pytest.raises(CorruptImageError, match="wrong attribute length"):
        map_ntfs(patched(30, 0x38 + 4, data, usual()))


def test_an_attribute_neither_resident_nor_not_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="wrong attribute head"):
        map_ntfs(patched(30, 0x38 + 8, b"\x02", usual()))


def test_a_non_resident_attribute_without_room_is_refused() -> None:
    short = resident(DATA, b"x" * 8)
    short = short[:8] + b"\x01" + short[9:]
    source = Volume(records={30: record(short)}).source()
    with pytest.raises(CorruptImageError, match="wrong attribute head"):
        map_ntfs(source)


@pytest.mark.parametrize(
    "attribute",
    [
        away(NAME, [(500, 1)]),
        away(STANDARD, [(500, 1)]),
        resident(NAME, bytes(0x41)),
        resident(STANDARD, bytes(8)),
    ],
)
def test_a_name_that_is_not_where_it_must_be_is_refused(
    attribute: bytes,
) -> None:
    source = Volume(records={30: record(attribute)}).source()
    with pytest.raises(CorruptImageError, match="wrong resident attribute"):
        map_ntfs(source)


@pytest.mark.parametrize(
    "field", [b"\xff\xff\xff\xff\x18\0", b"\x44\0\0\0\x19\0"]
)
def test_a_value_that_leaves_its_attribute_is_refused(field: bytes) -> None:
    raw = record(file_name(5, "a"))
    with pytest.raises(CorruptImageError, match="wrong resident attribute"):
        map_ntfs(patched(30, 0x38 + 16, field, raw))


@pytest.mark.parametrize("size", [1024, 4096])
def test_both_record_sizes_are_read(size: int) -> None:
    raw = record(away(0xC0, [(500, 2)]), size=size)
    volume = Volume(record_size=size, records={15: raw})
    assert any(offset == 500 * 4096 for offset, _, _ in extents(volume))


def test_records_of_windows_2000_keep_their_sequence_further_ahead() -> None:
    raw = record(away(0xC0, [(500, 2)]), fixups_at=0x2A)
    volume = Volume(version=(3, 0), records={30: raw})
    assert any(offset == 500 * 4096 for offset, _, _ in extents(volume))


def test_a_field_under_a_fixup_is_read_as_it_was() -> None:
    # The run list is placed so that its bytes lie across byte 510.
    filler = resident(0x40, bytes(0x180 - 0x18))
    raw = record(filler, away(0xE0, [(500, 1), (900, 1), (600, 2)]))
    assert raw[510:512] == b"\x07\x00"
    volume = Volume(records={30: raw})
    found = {offset // 4096 for offset, _, _ in extents(volume)}
    assert {500, 900, 600} <= found


def extents(volume: Volume) -> list[tuple[int, int, MetadataClass]]:
    return list(map_ntfs(volume.source()).extents)


def fragmented(entries: bytes, **parts: bytes) -> Volume:
    """$MFT in three pieces; the second part of its list is in record 15."""
    runs = [(4, 8), (700, 4), (600, 8)]
    head = away(DATA, [(4, 8)], size=20 * 4096)
    volume = Volume(
        mft_runs=list(runs),
        mft_attributes=[resident(LIST, entries), head],
    )
    for name, raw in parts.items():
        volume.records[int(name.removeprefix("r"))] = raw
    return volume


PART_1 = record(away(DATA, [(700, 4)], lowest=8), base=extension_of(0))
PART_2 = record(away(DATA, [(600, 8)], lowest=12), base=extension_of(0))
ENTRIES = (
    list_entry(STANDARD, 0, 0)
    + list_entry(DATA, 0, 0)
    + list_entry(DATA, 8, 15)
    + list_entry(DATA, 12, 33)
    + list_entry(BITMAP, 0, 0)
)


def test_a_fragmented_mft_is_read_through_its_extension_records() -> None:
    late = record(away(0xA0, [(1500, 1)], "$I30"))
    volume = fragmented(ENTRIES, r15=PART_1, r33=PART_2, r79=late)
    found = extents(volume)
    mft = [e[:2] for e in found if e[2] is MetadataClass.MFT]
    assert mft == [
        (4 * 4096, 8 * 4096),
        (600 * 4096, 8 * 4096),
        (700 * 4096, 4 * 4096),
    ]
    assert (1500 * 4096, 4096, MetadataClass.INDEX) in found


def test_the_first_extent_of_class_mft_begins_with_its_first_record() -> None:
    runs = [(700, 4), (600, 4), (696, 4)]
    found = extents(Volume(mft_runs=list(runs), mft_attributes=None))
    kinds = MetadataClass
    assert (600 * 4096, 4 * 4096, kinds.SYSTEM_FILE) in found
    assert (696 * 4096, 4 * 4096, kinds.SYSTEM_FILE) in found
    mft = [e[:2] for e in found if e[2] is kinds.MFT]
    assert mft == [(700 * 4096, 4 * 4096)]


def test_the_attribute_list_of_the_mft_may_lie_elsewhere() -> None:
    volume = fragmented(ENTRIES, r15=PART_1, r33=PART_2)
    size = len(ENTRIES)
    volume.mft_attributes = [
        away(LIST, [(900, 1)], size=size),
        away(DATA, [(4, 8)], size=20 * 4096),
    ]
    source = volume.source()
    source.write(900 * 4096, ENTRIES)
    found = map_ntfs(source).extents
    assert (900 * 4096, 4096, MetadataClass.ATTRIBUTE_LIST) in found
    assert (600 * 4096, 8 * 4096, MetadataClass.MFT) in found


@pytest.mark.parametrize(
    ("entries", "parts", "message"),
    [
        (ENTRIES[:0x21], {}, "attribute list breaks off"),
        (bytes(64), {}, "attribute list breaks off"),
        (list_entry(DATA, 8, 79), {}, "record 79: outside the part"),
        (list_entry(DATA, 8, 15), {}, "record 15: not a record of"),
        (list_entry(DATA, 8, 15), {"r15": usual()}, "record 15: not a rec"),
        (list_entry(DATA, 8, 0), {}, "no run list from VCN 8"),
        (list_entry(DATA, 9, 15), {"r15": PART_1}, "no run list from VCN 9"),
        (list_entry(DATA, 8, 15) * 2, {"r15": PART_1}, "goes on at VCN 8"),
        (list_entry(DATA, 12, 15), {"r15": PART_2}, "goes on at VCN 12"),
        (list_entry(DATA, 8, 15), {"r15": PART_1}, "80 records in 48"),
    ],
)
def test_an_attribute_list_that_goes_astray_is_refused(
    entries: bytes, parts: dict[str, bytes], message: str
) -> None:
    with pytest.raises(CorruptImageError, match=message):
        extents(fragmented(entries, **parts))


def test_an_attribute_list_without_end_is_refused() -> None:
    volume = fragmented(ENTRIES)
    volume.mft_attributes = [
        away(LIST, [(900, 1)], size=1 << 40),
        away(DATA, [(4, 8)], size=20 * 4096),
    ]
    with pytest.raises(LimitExceededError, match="attribute list"):
        extents(volume)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (away(DATA, [(None, 4)], lowest=8), "has holes or is empty"),
        (away(DATA, b"\0", lowest=8, highest=7), "has holes or is empty"),
        (away(DATA, [(4, 4092)], lowest=8), "larger than the volume"),
    ],
)
def test_a_part_of_the_mft_that_cannot_be_is_refused(
    part: bytes, message: str
) -> None:
    raw = record(part, base=extension_of(0))
    with pytest.raises(CorruptImageError, match=message):
        extents(fragmented(list_entry(DATA, 8, 15), r15=raw))


def test_an_mft_elsewhere_than_the_boot_sector_says_is_refused() -> None:
    volume = Volume(mft_attributes=[away(DATA, [(5, 16)])])
    with pytest.raises(CorruptImageError, match="not where the boot"):
        extents(volume)


def test_an_mft_without_data_is_refused() -> None:
    volume = Volume(mft_attributes=[away(BITMAP, [(3, 1)])])
    with pytest.raises(CorruptImageError, match="no run list from VCN 0"):
        extents(volume)


@pytest.mark.parametrize("records", [0, 15, 65, 1 << 20])
def test_an_mft_of_more_or_fewer_records_than_can_be_is_refused(
    records: int,
) -> None:
    data = away(DATA, [(4, 16)], size=records * 1024)
    with pytest.raises(CorruptImageError, match=f"{records} records in 64"):
        extents(Volume(mft_attributes=[data]))


def test_an_mft_of_more_records_than_the_limit_is_refused() -> None:
    records = mft_module.MAX_RECORDS + 1
    clusters = records // 4 + 100
    data = away(DATA, [(4, clusters)], size=records * 1024)
    volume = Volume(clusters=clusters + 100, mft_attributes=[data])
    with pytest.raises(LimitExceededError, match="number of NTFS records"):
        extents(volume)
