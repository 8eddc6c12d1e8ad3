"""LVM2's label, metadata areas and text: each check, each lie by name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.lvm_volume import (
    IDENTITY,
    MDA,
    MDA_BYTES,
    MIB,
    PV,
    crc,
    group_text,
)
from vmsec.errors import CorruptImageError, FormatError, LimitExceededError
from vmsec.ondisk import limits
from vmsec.ondisk.lvm.label import (
    Area,
    checksum,
    has_label,
    read_group,
    read_label,
)
from vmsec.ondisk.lvm.text import (
    items,
    number,
    parse_text,
    section,
    string,
)
from vmsec.ondisk.source import MemorySource

BOTH_ENDS = [(MDA, MDA_BYTES), (3 * MIB, MIB)]


@pytest.mark.parametrize("sector", range(4))
def test_the_label_may_be_in_each_of_the_first_four_sectors(
    sector: int,
) -> None:
    source = MemorySource(PV(4, sector=sector, areas=BOTH_ENDS).build())
    assert has_label(source)
    found = read_label(source)
    assert found.identity == IDENTITY
    assert found.areas == tuple(Area(*area) for area in BOTH_ENDS)
    assert found.is_used


def test_what_bears_no_label_is_no_physical_volume() -> None:
    disk = PV(4, sector=3).build()
    disk[4 * 512 : 5 * 512] = disk[3 * 512 : 4 * 512]
    disk[3 * 512] = 0
    assert not has_label(MemorySource(disk))
    assert not has_label(MemorySource(disk[:100]))


def test_a_label_that_was_copied_to_another_sector_is_refused() -> None:
    disk = PV(4).build()
    disk[1024:1536] = disk[512:1024]
    assert read_label(MemorySource(disk)).identity == IDENTITY
    disk[512] = 0
    with pytest.raises(CorruptImageError, match="no label"):
        read_label(MemorySource(disk))


def test_a_label_with_a_wrong_checksum_is_refused() -> None:
    disk = PV(4).build()
    disk[700] ^= 1
    assert has_label(MemorySource(disk))
    with pytest.raises(CorruptImageError, match="no label"):
        read_label(MemorySource(disk))


def resigned(disk: bytearray, at: int, data: bytes) -> MemorySource:
    disk[512 + at : 512 + at + len(data)] = data
    disk[512 + 16 : 512 + 20] = struct.pack("<I", crc(disk[532:1024]))
    return MemorySource(disk)


@pytest.mark.parametrize(
    ("at", "data", "text"),
    [
        (20, struct.pack("<I", 500), "do not end inside"),
        (20, struct.pack("<I", 1 << 31), "do not end inside"),
        (72, b"\x01" * 440, "do not end inside"),
        (32, b"\xff", "do not end inside"),
        (104, struct.pack("<QQ", 4096, 1 << 62), "lies outside"),
    ],
)
def test_a_label_that_leads_outside_is_refused(
    at: int, data: bytes, text: str
) -> None:
    with pytest.raises(CorruptImageError, match=text):
        read_label(resigned(PV(4).build(), at, data))


def test_the_newest_text_of_both_ends_counts() -> None:
    disk = PV(4, text=group_text({}, seqno=8), areas=BOTH_ENDS).build()
    newer = PV(4, text=group_text({}, seqno=9))
    disk[3 * MIB :] = newer.area(*BOTH_ENDS[1])
    source = MemorySource(disk)
    found = read_group(source, read_label(source))
    assert found is not None
    assert (number(found.group, "seqno"), found.notes) == (9, ())


def test_a_text_may_go_round_the_end_of_its_area() -> None:
    pv = PV(4, text_at=MDA_BYTES - 100)
    source = MemorySource(pv.build())
    found = read_group(source, read_label(source))
    assert found is not None
    volumes = section(found.group, "physical_volumes")
    assert string(section(volumes, "pv0"), "device") == '/dev/sd"x\\'


def test_one_damaged_area_of_two_is_only_told() -> None:
    disk = PV(4, areas=BOTH_ENDS).build()
    disk[MDA + 600] ^= 1
    source = MemorySource(disk)
    found = read_group(source, read_label(source))
    assert found is not None
    (note,) = found.notes
    assert "area at byte 4096 holds a text with a wrong checksum" in note


def test_a_volume_without_group_has_no_text() -> None:
    source = MemorySource(PV(4, text=b"", flags=0).build())
    pv = read_label(source)
    assert not pv.is_used
    assert read_group(source, pv) is None


def head(**changes: int) -> bytes:
    """A header of the metadata area with a checksum over what it says."""
    values = {"version": 1, "start": MDA, "size": MDA_BYTES,
              "at": 512, "length": 9, "crc": 0}  # fmt: skip
    values |= changes
    data = struct.pack(
        "<16sIQQQQII", b" LVM2 x[5A%r0N*>", *values.values(), 0
    ).ljust(508, b"\0")
    return struct.pack("<I", crc(data)) + data


AREA_LIES = {
    "no whole header": b"\0\0\0\0",
    "as another one": head(start=512),
    "another one;": head(version=2),
    "text at 100": head(at=100),
    "text at 1044480": head(at=MDA_BYTES),
    "too short for a text": head(length=MDA_BYTES - 511),
    "wrong checksum": head(crc=1),
    "what is no text": head(length=1, crc=checksum(b"\xff")),
}


@pytest.mark.parametrize("text", AREA_LIES)
def test_a_metadata_area_that_contradicts_itself_is_refused(
    text: str,
) -> None:
    disk = PV(4).build()
    disk[MDA : MDA + len(AREA_LIES[text])] = AREA_LIES[text]
    if text == "what is no text":
        disk[MDA + 512] = 0xFF
    source = MemorySource(disk)
    with pytest.raises(CorruptImageError, match=text):
        read_group(source, read_label(source))


def test_an_area_shorter_than_its_header_is_refused() -> None:
    source = MemorySource(PV(4).build())
    pv = read_label(source)._replace(areas=(Area(MDA, 511),))
    with pytest.raises(CorruptImageError, match="is too short"):
        read_group(source, pv)


def test_a_text_beyond_all_reason_is_refused() -> None:
    disk = PV(4).build()
    disk[MDA : MDA + 512] = head(length=(4 << 20) + 1)
    source = MemorySource(disk)
    with pytest.raises(LimitExceededError, match="length of the metadata"):
        read_group(source, read_label(source))


@pytest.mark.parametrize(
    "text",
    [
        group_text({}).replace("Text Format", "Binary"),
        group_text({}).replace("\nversion = 1", "\nversion = 2"),
        group_text({}, extra="second {\n}"),
        group_text({}).replace("seqno = 1", "seqno = -1"),
        group_text({}).replace("seqno = 1", ""),
    ],
)
def test_a_text_that_describes_no_group_is_refused(text: str) -> None:
    source = MemorySource(PV(4, text=text).build())
    with pytest.raises(CorruptImageError, match="LVM2"):
        read_group(source, read_label(source))


def test_every_kind_of_value_is_read() -> None:
    root = parse_text(
        '# comment "\na { b = -5 c = "x\\"y\\\\" 1.2+z { } }'
        ' d = ["p", 3] e = []'
    )
    assert root == {
        "a": {"b": -5, "c": 'x"y\\', "1.2+z": {}},
        "d": ["p", 3],
        "e": [],
    }
    assert items(root, "d") == ["p", 3]


@pytest.mark.parametrize(
    "text",
    [
        "a", "a =", "a = b", "a = {", "a {", "}", "a = [1", "a = [[1]]",
        "= 1", '"a" = 1', 'a = "x', "a = 1 a = 2", "a { } a = 1", "a } ",
        "a = 12345678901234567890", "a = 1.5", "a\x00 = 1", "a ; b",
    ],
)  # fmt: skip
def test_what_lvm_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match="LVM2"):
        parse_text(text)


@pytest.mark.parametrize("read", [section, number, string, items])
def test_what_is_missing_is_named(read: object) -> None:
    assert callable(read)
    with pytest.raises(CorruptImageError, match=r"lack the .* 'thing'"):
        read({"other": 1}, "thing")


def test_depth_and_number_of_words_are_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LimitExceededError, match="depth"):
        parse_text("a {" * 9 + "}" * 9)
    monkeypatch.setattr(limits, "MAX_LVM_TOKENS", 5)
    with pytest.raises(LimitExceededError, match="number of words"):
        parse_text("a = 1 b = 2")


@given(st.text(alphabet='ab1 ="{}[],\\#\n-.', max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        root = parse_text(text)
    except FormatError:
        return
    assert isinstance(root, dict)
