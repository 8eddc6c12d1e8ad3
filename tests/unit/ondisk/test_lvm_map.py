"""What of an LVM2 physical volume is mapped, and what is refused."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.exfat_volume import ExFATVolume
from tests.support.label import FATVolume
from tests.support.lvm_volume import (
    MDA,
    MDA_BYTES,
    MIB,
    PE_START,
    PV,
    group_text,
    segment,
    volume,
)
from vmsec.errors import (
    CorruptImageError,
    FormatError,
    LimitExceededError,
    OverlapError,
)
from vmsec.ondisk import limits, probe
from vmsec.ondisk.extent import BOOT_CLASSES, Extent, MetadataClass
from vmsec.ondisk.fat import map_fat
from vmsec.ondisk.lvm.volume import Leg, MappedSource, Segment
from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    from vmsec.ondisk.extent import VolumeMap

LVM = MetadataClass.LVM_METADATA
FALLBACK = MetadataClass.FALLBACK
OWN = [Extent(0, 2048, LVM), Extent(MDA, MDA_BYTES, LVM)]
FAT = bytes(FATVolume(bits=16, clusters=5000).build())
SWAP = bytes(1024) + struct.pack("<II", 1, 9) + bytes(3054) + b"SWAPSPACE2"


def linear(at: int, count: int, start: int = 0, name: str = "pv0") -> str:
    return segment(start, count, [(name, at)])


def mapped(
    volumes: dict[str, str], content: dict[int, bytes] | None = None
) -> VolumeMap:
    disk = PV(text=group_text(volumes), content=content or {}).build()
    found = probe.probe_volume(MemorySource(disk))
    assert found.status is probe.Status.FILESYSTEM
    assert found.content is not None
    return found.content


def inner(found: VolumeMap) -> list[tuple[int, int, MetadataClass]]:
    """What is mapped on logical volumes; offsets from the first extent."""
    assert list(found.extents[:2]) == OWN
    return [(e.offset - PE_START, e.length, e.kind) for e in found.extents[2:]]


def test_label_and_metadata_areas_are_mapped_whole() -> None:
    found = mapped({})
    assert (found.filesystem, found.extents) == ("LVM2", tuple(OWN))
    assert LVM in BOOT_CLASSES


def test_a_volume_of_no_group_is_mapped_as_well() -> None:
    disk = PV(4, text=b"", flags=0).build()
    found = probe.probe_volume(MemorySource(disk)).content
    assert found is not None
    assert (list(found.extents), found.filesystem) == (OWN, "LVM2")
    assert found.notes == ("belongs to no volume group",)


def test_a_group_without_volumes_is_mapped() -> None:
    text = group_text({}).replace("logical_volumes {\n}\n", "")
    found = probe.probe_volume(MemorySource(PV(4, text=text).build())).content
    assert found is not None
    assert (found.extents, found.notes) == (tuple(OWN), ())


@pytest.mark.parametrize(
    "pv",
    [PV(4, text=b""), PV(4, areas=[]), PV(4, areas=[], flags=0)],
    ids=["no text", "no area", "no area, no flag"],
)
def test_a_group_described_elsewhere_makes_the_volume_unknown(
    pv: PV,
) -> None:
    found = probe.probe_volume(MemorySource(pv.build()))
    assert found.status is probe.Status.UNKNOWN
    assert "described on another disk" in found.note


def test_file_systems_are_mapped_where_they_lie() -> None:
    volumes = {
        "root": volume(linear(10, 1), linear(3, 4, 1)),
        "swap": volume(linear(12, 2)),
    }
    content = {
        10 * MIB: FAT[:MIB],
        3 * MIB: FAT[MIB:],
        12 * MIB: SWAP,
    }
    found = mapped(volumes, content)
    alone = map_fat(MemorySource(FAT))
    expected = [
        (
            e.offset + (10 * MIB if e.offset < MIB else 2 * MIB),
            e.length,
            e.kind,
        )
        for e in alone.extents
    ]
    expected.append((12 * MIB, 4096, MetadataClass.SWAP_HEADER))
    assert found.filesystem == "LVM2(vfat,swap)"
    assert inner(found) == sorted(expected)
    assert found.notes == ("root: FAT16", "swap: pages of 4096 bytes")


def test_an_extent_across_two_segments_becomes_two_runs() -> None:
    # Tables end at sector 1 + 2 * 20: cut the volume inside them.
    segments = (
        Segment(0, 4096, (Leg(90_000, 4096),), 512),
        Segment(4096, len(FAT) - 4096, (Leg(200_000, len(FAT)),), 512),
    )
    disk = bytearray(400_000 + len(FAT))
    disk[90_000 : 90_000 + 4096] = FAT[:4096]
    disk[200_000 : 200_000 + len(FAT) - 4096] = FAT[4096:]
    source = MappedSource(MemorySource(disk, sector_bytes=4096), segments)
    assert source.sector_bytes == 4096
    assert map_fat(source) == map_fat(MemorySource(FAT))
    assert list(source.pieces(4000, 200)) == [(94_000, 96), (200_000, 104)]


def test_stripes_on_one_disk_are_put_together() -> None:
    text = segment(0, 4, [("pv0", 1), ("pv0", 8)], stripe=16)
    content: dict[int, bytes] = {}
    for n in range(-(-len(FAT) // 8192)):
        base = (1 if n % 2 == 0 else 8) * MIB
        content[base + n // 2 * 8192] = FAT[n * 8192 : (n + 1) * 8192]
    found = mapped({"striped": volume(text)}, content)
    assert found.filesystem == "LVM2(vfat)"
    wanted = sum(e.length for e in map_fat(MemorySource(FAT)).extents)
    assert sum(length for _, length, _ in inner(found)) == wanted


def test_more_runs_than_anybody_has_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_LVM_PIECES", 2)
    text = segment(0, 20, [("pv0", 1), ("pv0", 18)], stripe=16)
    with pytest.raises(LimitExceededError, match="number of runs"):
        mapped({"striped": volume(text)}, {MIB: b"noise"})


def test_an_unknown_volume_is_mapped_at_head_and_tail() -> None:
    found = mapped({"data": volume(linear(2, 20))}, {2 * MIB: b"noise"})
    assert inner(found) == [
        (2 * MIB, 4 * MIB, FALLBACK),
        (18 * MIB, 4 * MIB, FALLBACK),
    ]
    assert found.filesystem == "LVM2"
    assert found.notes == ("data: no known file system",)


def test_a_short_unknown_volume_is_mapped_once() -> None:
    found = mapped({"data": volume(linear(2, 5))}, {2 * MIB: b"noise"})
    assert inner(found) == [(2 * MIB, 5 * MIB, FALLBACK)]


def test_encryption_on_a_volume_is_left_alone() -> None:
    luks = {2 * MIB: b"LUKS\xba\xbe"}
    whole = mapped({"safe": volume(linear(2, 20))}, luks)
    assert inner(whole) == []
    assert whole.notes == ("safe: LUKS: encrypted, left alone",)
    image = volume(linear(2, 20), status='"READ"')
    assert inner(mapped({"r_rimage_0": image}, luks)) == []
    half = volume(linear(2, 4), linear(0, 4, 4, "pv1"))
    assert inner(mapped({"half": half}, luks)) == []


def test_an_empty_volume_has_nothing_to_map() -> None:
    assert inner(mapped({"new": volume(linear(2, 2))})) == []


@pytest.mark.parametrize(
    "text",
    [
        volume(linear(2, 20), linear(0, 4, 20, "pv1")),
        volume(linear(0, 4, 0, "pv1"), linear(2, 20, 4)),
        volume(linear(2, 20), status='"READ"'),
        volume(segment(0, 40, [("pv0", 2), ("pv1", 2)])),
    ],
    ids=["head here", "tail here", "hidden", "a stripe here"],
)
def test_parts_are_mapped_at_head_and_tail_and_told(text: str) -> None:
    found = mapped({"data": text}, {2 * MIB: FAT})
    assert inner(found) == [
        (2 * MIB, 4 * MIB, FALLBACK),
        (18 * MIB, 4 * MIB, FALLBACK),
    ]
    (note,) = found.notes
    assert "only head and tail of its runs are sealed" in note


def pool() -> dict[str, str]:
    head = "start_extent = 0\nextent_count = 20\n"
    return {
        "thin": volume(head + 'type = "thin"\nthin_pool = "pool"\n'),
        "pool": volume(
            head + 'type = "thin-pool"\nmetadata = "pool_tmeta"\n'
            'pool = "pool_tdata"\n'
        ),
        "pool_tmeta": volume(linear(30, 6), status='"READ"'),
        "pool_tdata": volume(linear(2, 20), status='"READ"'),
    }


def test_the_mapping_of_a_thin_pool_is_mapped_whole() -> None:
    found = mapped(pool(), {2 * MIB: FAT, 30 * MIB: b"mapping"})
    assert inner(found) == [
        (2 * MIB, 4 * MIB, FALLBACK),
        (18 * MIB, 4 * MIB, FALLBACK),
        (30 * MIB, 6 * MIB, LVM),
    ]
    assert found.notes[0] == "thin (thin) has no run of its own here"


def test_what_needs_no_word_has_no_note() -> None:
    volumes = {
        "share": volume(linear(2, 2)),
        "hidden": volume(
            'start_extent = 0\nextent_count = 1\ntype = "error"\n',
            status="",
        ),
    }
    found = mapped(volumes, {2 * MIB: bytes(ExFATVolume.blank().data)})
    assert (found.filesystem, found.notes) == ("LVM2(exfat)", ())


def test_lvm_inside_lvm_is_not_looked_into() -> None:
    nested = bytes(PV(4).build())
    found = mapped({"nest": volume(linear(2, 6))}, {2 * MIB: nested})
    assert inner(found) == [(2 * MIB, 6 * MIB, FALLBACK)]
    assert "inside another" in found.notes[0]


def test_a_damaged_file_system_names_its_volume() -> None:
    bad = bytearray(FAT)
    struct.pack_into("<H", bad, 22, 1)
    with pytest.raises(CorruptImageError, match=r"^LVM2 volume root: FAT"):
        mapped({"root": volume(linear(2, 4))}, {2 * MIB: bytes(bad)})


def lie(text: str) -> dict[str, str]:
    return {"root": volume(text)}


GROUP_LIES = {
    "gap or an overlap at byte 1048576": {
        "root": volume(linear(2, 1), linear(3, 1, 2))
    },
    "has 1 segments of 2": {
        "root": volume(linear(2, 1)).replace("count = 1", "count = 2", 1)
    },
    "has 4 extents in 3 stripes": lie(
        segment(0, 4, [("pv0", 1), ("pv0", 3), ("pv0", 5)])
    ),
    "has 4 extents in 2 stripes": lie(
        segment(0, 4, [("pv0", 1), ("pv0", 3)], stripe=0)
    ),
    "has 2 words for 4 stripes": lie(
        linear(2, 4).replace("stripe_count = 1", "stripe_count = 4\n"
                             "stripe_size = 8")
    ),
    "has a stripe at -1": lie(linear(-1, 4)),
    "lies outside": lie(linear(1 << 60, 4)),
    "lack the list 'status'": {
        "root": volume(linear(2, 4)).replace("status", "state")
    },
}  # fmt: skip


@pytest.mark.parametrize("text", GROUP_LIES)
def test_a_group_that_contradicts_itself_is_refused(text: str) -> None:
    with pytest.raises(CorruptImageError, match=text):
        mapped(GROUP_LIES[text])


@pytest.mark.parametrize(
    ("old", "new"),
    [("abcdef-", "zbcdef-"), ("oooooo-", "abcdef-"), ("2048", "0")],
    ids=["not in it", "twice in it", "extents of nothing"],
)
def test_a_group_that_does_not_fit_its_disk_is_refused(
    old: str, new: str
) -> None:
    text = group_text({}).replace(old, new, 1)
    if new == "abcdef-":
        text = text.replace(
            "abcdef-oooo-oooo-oooo-oooo-oooo-oooooo",
            "abcdef-ghij-klmn-opqr-stuv-wxyz-012345",
        )
    disk = PV(4, text=text).build()
    with pytest.raises(CorruptImageError, match="names this physical volume"):
        probe.probe_volume(MemorySource(disk))


@pytest.mark.parametrize(
    "volumes",
    [
        {"a": volume(linear(2, 4)), "b": volume(linear(5, 4))},
        {"a": volume(linear(2, 4), linear(2, 4, 4))},
    ],
)
def test_volumes_that_share_bytes_are_refused(
    volumes: dict[str, str],
) -> None:
    with pytest.raises(OverlapError, match="overlap at byte"):
        mapped(volumes)


def test_a_volume_over_the_metadata_is_refused() -> None:
    text = group_text({"a": volume(linear(0, 4))}).replace(
        f"pe_start = {PE_START // 512}", "pe_start = 100"
    )
    with pytest.raises(OverlapError, match="a metadata area and a overlap"):
        probe.probe_volume(MemorySource(PV(text=text).build()))


NUMBERS = st.sampled_from((-1, 0, 1, 2, 5, 38, 39, 1 << 40, 10**18))


@given(
    spots=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=4),
    status=st.sampled_from(('"READ"', '"VISIBLE"', "1", "")),
    stripe=NUMBERS,
)
def test_any_numbers_are_refused_or_mapped_within_bounds(
    spots: list[tuple[int, int, int]], status: str, stripe: int
) -> None:
    parts = [segment(s, c, [("pv0", a)]) for s, c, a in spots]
    parts += [segment(0, 2, [("pv0", 1), ("pv0", 3)], stripe=stripe)]
    text = group_text({"v": volume(*parts, status=status)})
    source = MemorySource(PV(4, text=text).build())
    try:
        found = probe.probe_volume(source).content
    except FormatError:
        return
    assert found is not None
    end = 0
    for extent in found.extents:
        assert end <= extent.offset < extent.end <= source.size_bytes
        end = extent.end
