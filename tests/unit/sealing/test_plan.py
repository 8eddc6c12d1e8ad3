"""The plan: aligned, disjoint, inside the disk, whatever the layout says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmsec.ondisk.extent import Extent, Level, MetadataClass, VolumeMap
from vmsec.ondisk.layout import DiskLayout, Partition
from vmsec.ondisk.probe import Status
from vmsec.sealing.plan import FIRST_MFT_BYTES, plan_extents

SIZE = 64 << 20
MIB = 1 << 20
KINDS = st.sampled_from(list(MetadataClass))


def _layout(
    extents: list[Extent],
    *,
    status: Status = Status.FILESYSTEM,
    sector: int = 512,
    offset: int = MIB,
) -> DiskLayout:
    content = VolumeMap("ext4", tuple(extents)) if extents else None
    part = Partition(1, offset, SIZE - 2 * MIB, "0x83", content, status)
    label = (Extent(0, 512, MetadataClass.LBA0),)
    return DiskLayout(
        label="msdos",
        partitions=(part,),
        extents=label,
        notes=(),
        size_bytes=SIZE,
        sector_bytes=sector,
    )


@given(
    st.lists(
        st.tuples(
            st.integers(0, SIZE - 8 * MIB), st.integers(1, 4 * MIB), KINDS
        ),
        max_size=30,
    ),
    st.sampled_from(list(Level)),
    st.sampled_from([512, 4096]),
)
def test_extents_are_aligned_disjoint_and_cut(
    items: list[tuple[int, int, MetadataClass]], level: Level, sector: int
) -> None:
    """I2, and 1 MiB borders; every byte asked for is covered."""
    wanted = [Extent(*item) for item in items]
    plan = plan_extents(_layout(wanted, sector=sector), level, MIB)
    end = sector
    for extent in plan:
        assert extent.offset >= end
        assert extent.offset % 4096 == 0 or extent.offset == sector
        assert extent.end % 4096 == 0 or extent.end == SIZE
        assert extent.offset // MIB == (extent.end - 1) // MIB
        end = extent.end
    assert end <= SIZE
    if level is Level.METADATA:
        covered = [(e.offset, e.end) for e in plan]
        for extent in wanted:
            _assert_covered(covered, MIB + extent.offset, MIB + extent.end)


def _assert_covered(
    covered: list[tuple[int, int]], start: int, stop: int
) -> None:
    for begin, end in covered:
        if begin <= start < end:
            start = end
        if start >= stop:
            return
    raise AssertionError(f"byte {start} is not covered")


def test_the_rest_of_the_first_block_is_always_there() -> None:
    plan = plan_extents(_layout([]), Level.METADATA, MIB)
    assert plan[0] == Extent(512, 3584, MetadataClass.LBA0)


def test_an_unknown_partition_is_sealed_at_head_and_tail() -> None:
    layout = _layout([], status=Status.UNKNOWN)
    plan = plan_extents(layout, Level.BOOT, 2 * MIB)
    fallback = [e for e in plan if e.kind is MetadataClass.FALLBACK]
    assert sum(e.length for e in fallback) == 4 * MIB
    assert fallback[0].offset == MIB
    assert fallback[-1].end == SIZE - MIB


def test_an_encrypted_partition_is_never_touched() -> None:
    layout = _layout([], status=Status.ENCRYPTED)
    plan = plan_extents(layout, Level.METADATA, 2 * MIB)
    assert [e.kind for e in plan] == [MetadataClass.LBA0]


def test_level_boot_takes_the_first_records_of_the_mft_only() -> None:
    mft = Extent(8 * MIB, 16 * MIB, MetadataClass.MFT)
    index = Extent(40 * MIB, MIB, MetadataClass.INDEX)
    plan = plan_extents(_layout([mft, index]), Level.BOOT, MIB)
    kinds = {e.kind: e for e in plan}
    assert kinds[MetadataClass.MFT].length == FIRST_MFT_BYTES
    assert MetadataClass.INDEX not in kinds
