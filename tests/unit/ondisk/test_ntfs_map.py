"""What is metadata in an NTFS volume, and what is the user's."""

from __future__ import annotations

import pytest

from tests.support.ntfs_records import (
    BITMAP,
    DATA,
    EA,
    INDEX,
    LIST,
    REPARSE,
    SECURITY,
    STREAM,
    Volume,
    away,
    extension_of,
    file_name,
    record,
    resident,
    standard,
)
from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.extent import MetadataClass
from vmsec.ondisk.ntfs import map as map_module
from vmsec.ondisk.ntfs import map_ntfs
from vmsec.ondisk.ntfs.layout import INTERIX_LINK
from vmsec.ondisk.ntfs.map import MAX_RUNS

SYSTEM = 4


def added(*records: bytes, first: int = 30) -> set[tuple[int, int, str]]:
    """(LCN, clusters, class) that records add to an empty volume's map."""
    volume = Volume(records=dict(enumerate(records, first)))
    return difference(volume)


def difference(volume: Volume) -> set[tuple[int, int, str]]:
    with_them = set(map_ntfs(volume.source()).extents)
    without = set(map_ntfs(Volume().source()).extents)
    return {
        (extent.offset // 4096, extent.length // 4096, str(extent.kind))
        for extent in with_them - without
    }


def test_an_empty_volume_is_mapped_with_its_classes() -> None:
    volume = map_ntfs(Volume().source())
    found = {
        (extent.offset // 512, extent.length // 512): extent.kind
        for extent in volume.extents
    }
    kinds = MetadataClass
    assert volume.filesystem == "ntfs"
    assert found == {
        (0, 16): kinds.BOOT_SECTOR,
        (16, 8): kinds.MFT_MIRROR,
        (24, 8): kinds.BITMAP,
        (32, 128): kinds.MFT,
        (800, 512): kinds.LOGFILE,
        (1360, 8): kinds.SYSTEM_FILE,
        (1368, 8): kinds.INDEX,
        (1376, 8): kinds.BITMAP,
        (1384, 512): kinds.SYSTEM_FILE,
        (1920, 8): kinds.INDEX,
        (1928, 256): kinds.SYSTEM_FILE,
        (4096 * 8, 1): kinds.BOOT_SECTOR,
    }
    assert volume.notes == ()


def test_a_boot_area_and_mirror_are_mapped_even_where_records_are_silent() -> (
    None
):
    volume = Volume(mirror_lcn=2000, records={1: record(), 7: record()})
    found = map_ntfs(volume.source()).extents
    assert (0, 8192, MetadataClass.BOOT_SECTOR) in found
    assert (2000 * 4096, 4096, MetadataClass.MFT_MIRROR) in found


def test_user_data_is_never_mapped() -> None:
    assert not added(
        record(standard(), file_name(5, "a"), away(DATA, [(500, 9)])),
        record(file_name(5, "$Secret"), away(DATA, [(600, 9)], "stream")),
        record(standard(SYSTEM), away(DATA, [(700, 9)])),
        record(away(DATA, [(800, 2), (None, 14)], "WofCompressedData")),
        record(away(DATA, [(900, 3)], lowest=9), base=extension_of(30)),
    )


def test_streams_of_the_root_and_bad_clusters_are_left_alone() -> None:
    root = record(away(INDEX, [(171, 1)], "$I30"), away(DATA, [(500, 9)], "s"))
    bad = record(away(DATA, [(None, 4000), (4001, 2)], "$Bad"))
    assert not difference(Volume(records={5: root, 8: bad}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LIST, "attribute-list"),
        (SECURITY, "xattr"),
        (INDEX, "index"),
        (BITMAP, "index"),
        (REPARSE, "xattr"),
        (EA, "xattr"),
        (STREAM, "xattr"),
        (0x1000, "xattr"),
    ],
)
def test_what_describes_a_file_is_mapped_by_its_class(
    kind: int, name: str
) -> None:
    found = added(record(away(kind, [(500, 3), (None, 5), (300, 1)])))
    assert found == {(500, 3, name), (300, 1, name)}


def test_what_an_extension_record_holds_of_a_directory_is_mapped() -> None:
    part = record(
        away(INDEX, [(500, 3)], "$I30", lowest=7), base=extension_of(30)
    )
    assert added(record(file_name(5, "d")), part) == {(500, 3, "index")}


def test_the_bitmap_of_the_mft_may_lie_in_an_extension_record() -> None:
    part = record(away(BITMAP, [(500, 1)]), base=extension_of(0))
    assert added(part, first=15) == {(500, 1, "bitmap")}


def extend(number: int, name: str, parent: int = 11) -> bytes:
    return record(
        standard(), file_name(parent, name), away(DATA, [(number * 10, 2)])
    )


def test_files_below_extend_are_the_volumes_own() -> None:
    # The child comes before its parent, and the parent's parent after both.
    assert added(
        extend(50, "$TxfLog.blf", 31),
        record(file_name(33, "$TxfLog"), away(INDEX, [(510, 1)], "$I30")),
        extend(52, "$ObjId"),
        record(file_name(11, "$RmMetadata")),
    ) == {
        (500, 2, "system-file"),
        (510, 1, "index"),
        (520, 2, "system-file"),
    }


def test_a_change_journal_is_mapped_without_its_holes() -> None:
    journal = record(
        file_name(11, "$UsnJrnl"),
        away(DATA, [(None, 1 << 20), (500, 16)], "$J"),
        resident(DATA, bytes(32), "$Max"),
    )
    part = record(
        away(DATA, [(600, 32)], "$J", lowest=(1 << 20) + 16),
        base=extension_of(31),
    )
    assert added(part, journal) == {(500, 16, "journal"), (600, 32, "journal")}


def test_names_in_an_extension_record_count_for_their_file() -> None:
    base = record(
        away(LIST, [(400, 1)]), away(DATA, [(500, 2)], "$J", lowest=0)
    )
    names = record(file_name(11, "$UsnJrnl"), base=extension_of(31))
    assert added(names, base) == {
        (400, 1, "attribute-list"),
        (500, 2, "journal"),
    }


def test_what_users_deleted_while_open_stays_theirs() -> None:
    deleted = record(file_name(11, "$Deleted"))
    assert not added(
        deleted, record(file_name(30, "00A1B2"), away(DATA, [(500, 2)]))
    )


def test_directories_that_are_their_own_parents_come_to_an_end() -> None:
    assert (
        added(extend(50, "$a", 31), extend(51, "$b", 30), extend(52, "$c", 32))
        == set()
    )
    knot = record(
        file_name(11, "$a"), file_name(30, "$a"), away(DATA, [(500, 1)])
    )
    assert added(knot, extend(52, "$b", 30)) == {
        (500, 1, "system-file"),
        (520, 2, "system-file"),
    }


def test_a_name_below_extend_makes_no_system_file_of_the_root() -> None:
    names = file_name(5, "."), file_name(11, "$root")
    index = away(INDEX, [(171, 1)], "$I30")
    root = record(*names, away(DATA, [(500, 9)], "s"), index)
    assert not difference(Volume(records={5: root}))


def linked(
    head: bytes, *attributes: bytes, flags: int = SYSTEM
) -> list[tuple[int, int]]:
    """Extents of class symlink of a volume with one file."""
    data = attributes or (away(DATA, [(500, 1)], size=1600),)
    raw = record(standard(flags), file_name(5, "link"), *data)
    source = Volume(records={30: raw}).source()
    source.write(500 * 4096, head)
    return [
        extent[:2]
        for extent in map_ntfs(source).extents
        if extent.kind is MetadataClass.SYMLINK
    ]


def test_the_target_of_a_long_symbolic_link_is_mapped() -> None:
    target = INTERIX_LINK + "target".encode("utf-16le") * 100
    assert linked(target) == [(500 * 4096, 4096)]


def test_only_system_files_with_the_magic_are_links() -> None:
    assert not linked(b"IntxBLK\0" + bytes(100))
    assert not linked(INTERIX_LINK, flags=0)
    assert not linked(INTERIX_LINK, away(DATA, [(500, 1)], "s", size=1600))
    assert not linked(INTERIX_LINK, away(DATA, [(500, 40)], size=160_000))
    assert not linked(INTERIX_LINK, away(DATA, [(500, 1)], size=8))
    assert not linked(INTERIX_LINK, away(DATA, [(None, 1)], size=1600))
    assert not linked(INTERIX_LINK, away(DATA, b"\0", size=99, highest=-1))


def test_a_target_moved_to_an_extension_record_is_mapped() -> None:
    base = record(standard(SYSTEM), away(LIST, [(400, 1)]))
    part = record(away(DATA, [(500, 1)], size=1600), base=extension_of(30))
    source = Volume(records={30: base, 31: part}).source()
    source.write(500 * 4096, INTERIX_LINK)
    found = map_ntfs(source).extents
    assert (500 * 4096, 4096, MetadataClass.SYMLINK) in found


@pytest.mark.parametrize("version", [(1, 2), (3, 0), (3, 1)])
def test_versions_in_the_field_are_read(version: tuple[int, int]) -> None:
    assert map_ntfs(Volume(version=version).source()).extents


@pytest.mark.parametrize("version", [(1, 1), (2, 0), (3, 2), (4, 0)])
def test_other_versions_are_refused(version: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedFormatError, match="NTFS version"):
        map_ntfs(Volume(version=version).source())


@pytest.mark.parametrize("raw", [record(), record(flags=0), bytes(1024)])
def test_a_volume_without_version_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptImageError, match=r"no \$VOLUME_INFORMATION"):
        map_ntfs(Volume(records={3: raw}).source())


def test_a_dirty_volume_is_mapped_with_a_note() -> None:
    volume = map_ntfs(Volume(volume_flags=1).source())
    assert volume.extents == map_ntfs(Volume().source()).extents
    assert "dirty" in volume.notes[0]


def test_a_damaged_run_list_names_its_record() -> None:
    raw = record(away(INDEX, [(5000, 1)], "$I30"))
    with pytest.raises(
        CorruptImageError, match=r"record 30: .* chkdsk in the guest"
    ):
        added(raw)


def test_records_that_claim_the_volume_many_times_are_refused() -> None:
    whole = record(away(INDEX, [(0, 4000)], "$I30"))
    with pytest.raises(CorruptImageError, match="more clusters than"):
        added(whole, whole)


def test_overlapping_runs_give_disjoint_extents() -> None:
    raw = record(away(INDEX, [(500, 9), (495, 9), (501, 2)], "$I30"))
    assert added(raw) == {(495, 14, "index")}


def test_the_number_of_runs_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(map_module, "MAX_RUNS", 20)
    raw = record(away(INDEX, [(500 + 2 * i, 1) for i in range(30)], "$I30"))
    with pytest.raises(LimitExceededError, match="more than 20 runs"):
        added(raw)
    assert MAX_RUNS > 1 << 20


def test_a_volume_of_more_than_2_to_the_32_clusters_is_mapped() -> None:
    far = (1 << 33) + 5
    raw = record(away(INDEX, [(far, 3)], "$I30"))
    volume = Volume(clusters=1 << 34, records={30: raw})
    found = map_ntfs(volume.source()).extents
    assert (far * 4096, 3 * 4096, MetadataClass.INDEX) in found
    assert max(found).end == volume.clusters * 4096 + 512
