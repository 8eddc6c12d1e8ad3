"""The metadata map of an NTFS volume (DESIGN 3.1, level ``metadata``).

Mapped is every byte that names, finds or describes a file: whatever is not
resident in $MFT and is not $DATA, the $DATA of the volume's own files
(:mod:`vmsec.ondisk.ntfs.census`), the targets of symbolic links, and the boot
sectors. What users store is never mapped. Runs are mapped whole, slack
included, since slack holds what was there before.

Indexes are not read: their extents follow from the FILE record of their
directory, so a damaged index does not matter here.

Source:
    The field tables in :mod:`vmsec.ondisk.ntfs.layout`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from vmsec.errors import (
    CorruptImageError,
    LimitExceededError,
    UnsupportedFormatError,
)
from vmsec.ondisk.extent import ExtentBuilder, MetadataClass, VolumeMap
from vmsec.ondisk.ntfs.boot import (
    Geometry,
    boot_sector_copies,
    read_geometry,
)
from vmsec.ondisk.ntfs.census import Census
from vmsec.ondisk.ntfs.layout import (
    BOOT_AREA_BYTES,
    INTERIX_LINK,
    INTERIX_LINK_LIMIT,
    VOLUME_DIRTY,
    VOLUME_INFORMATION_BYTES,
    AttributeField,
    AttributeType,
    NonResidentField,
    SystemRecord,
    VolumeField,
)
from vmsec.ondisk.ntfs.mft import MasterFileTable
from vmsec.ondisk.ntfs.record import Attributes, refuse_record, walk
from vmsec.ondisk.ntfs.runlist import Run, decode_runs

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

VERSIONS = frozenset({(1, 2), (3, 0), (3, 1)})
"""NT 4.0; Windows 2000; Windows XP and later."""

MIRROR_RECORDS = 4
"""$MFTMirr holds at least these (libfsntfs, "The metadata files")."""

MAX_RUNS = 2 << 20
"""Runs of metadata in a volume; so many cost 400 MiB and ten seconds here. A
directory too large for its record has one or two, so a million fit."""

ATTRIBUTE_CLASSES = MappingProxyType(
    {
        AttributeType.ATTRIBUTE_LIST: MetadataClass.ATTRIBUTE_LIST,
        AttributeType.INDEX_ALLOCATION: MetadataClass.INDEX,
        AttributeType.BITMAP: MetadataClass.INDEX,
    }
)
"""Class of what is not resident, by type of attribute. All other types but
$DATA ($SECURITY_DESCRIPTOR, $REPARSE_POINT, $EA, $LOGGED_UTILITY_STREAM and
what may come) describe one file: :data:`MetadataClass.XATTR`."""


def map_ntfs(source: BlockSource) -> VolumeMap:
    """Map the metadata of an NTFS volume.

    Args:
        source: The volume, from its boot sector on.

    Returns:
        All metadata extents, relative to the volume.

    Raises:
        CorruptImageError: The volume contradicts itself; the image must be
            refused until chkdsk has run in the guest.
        UnsupportedFormatError: Not version 1.2, 3.0 or 3.1, or odd sizes.
        LimitExceededError: More runs than :data:`MAX_RUNS`.
    """
    geometry = read_geometry(source)
    table = MasterFileTable(source, geometry)
    notes = _read_volume_notes(table)
    tally = _Tally(source, geometry)
    census = Census()
    for batch in table.batches():
        attributes = walk(batch)
        census.add(attributes)
        _map_attributes(attributes, tally)
    _map_data(table, census, tally)
    _map_boot_places(source, geometry, tally.builder)
    return VolumeMap("ntfs", tally.builder.merged(), notes)


class _Tally:
    """Adds runs to the map and keeps account of how many there are."""

    def __init__(self, source: BlockSource, geometry: Geometry) -> None:
        self.builder = ExtentBuilder(source.size_bytes)
        self.clusters = geometry.clusters
        self._mft_lcn = geometry.mft_lcn
        self._cluster_bytes = geometry.cluster_bytes
        self._left, self._runs = geometry.clusters, 0

    def add(self, runs: tuple[Run, ...], kind: MetadataClass) -> None:
        """Add the allocated ones of ``runs``.

        Raises:
            CorruptImageError: All added so far claim more clusters than the
                volume has, so some overlap.
            LimitExceededError: They are too many.
        """
        for run in runs:
            if run.lcn is not None:
                self._left -= run.length
                self.builder.add(
                    run.lcn * self._cluster_bytes,
                    run.length * self._cluster_bytes,
                    self._class_at(run.lcn, kind),
                )
        self._runs += len(runs)
        if self._left < 0:
            raise CorruptImageError(
                "NTFS metadata claims more clusters than the volume has; "
                "run chkdsk in the guest"
            )
        if self._runs > MAX_RUNS:
            raise LimitExceededError(
                f"NTFS metadata has more than {MAX_RUNS} runs"
            )

    def _class_at(self, lcn: int, kind: MetadataClass) -> MetadataClass:
        """Class of a run; what lies before the MFT's first byte is not MFT.

        Level ``boot`` takes the head of the first extent of class MFT: that
        must be the first records, though later fragments may lie before it.
        """
        if kind is MetadataClass.MFT and lcn < self._mft_lcn:
            return MetadataClass.SYSTEM_FILE
        return kind


def _read_volume_notes(table: MasterFileTable) -> tuple[str, ...]:
    """Check the version in $Volume and note whether the volume is dirty."""
    batch = table.load(np.array([SystemRecord.VOLUME], np.int64))
    found = walk(batch)
    found = found.where(found.types == AttributeType.VOLUME_INFORMATION)
    if not len(found.rows):
        refuse_record(SystemRecord.VOLUME, "no $VOLUME_INFORMATION")
    places = found.values(VOLUME_INFORMATION_BYTES)
    major, minor, flags = (
        int(batch.at(found.rows, places, field)[0])
        for field in (VolumeField.MAJOR, VolumeField.MINOR, VolumeField.FLAGS)
    )
    if (major, minor) not in VERSIONS:
        raise UnsupportedFormatError(f"NTFS version {major}.{minor}")
    if flags & VOLUME_DIRTY:
        return ("NTFS is marked dirty: Windows will check it at next start",)
    return ()


def _decode(
    attributes: Attributes, index: int, clusters: int
) -> tuple[Run, ...]:
    """Decode the run list of one attribute; name the record if it fails."""
    try:
        return decode_runs(attributes.raw(index), clusters)
    except CorruptImageError as err:
        number = int(attributes.numbers()[index])
        raise CorruptImageError(
            f"NTFS record {number}: {err}; run chkdsk in the guest"
        ) from err


def _map_attributes(attributes: Attributes, tally: _Tally) -> None:
    """Map whatever is not resident and not $DATA."""
    found = attributes.where(
        ~attributes.resident & (attributes.types != AttributeType.DATA)
    )
    owners = found.batch.owners()[found.rows].tolist()
    for index, kind in enumerate(found.types.tolist()):
        runs = _decode(found, index, tally.clusters)
        if kind == AttributeType.BITMAP and owners[index] == SystemRecord.MFT:
            tally.add(runs, MetadataClass.BITMAP)
        else:
            tally.add(runs, ATTRIBUTE_CLASSES.get(kind, MetadataClass.XATTR))


def _map_data(table: MasterFileTable, census: Census, tally: _Tally) -> None:
    """Map the $DATA of the volume's own files and of symbolic links."""
    classes = census.classes()
    for batch in table.select(census.holders(classes)):
        every = walk(batch)
        data = every.where(
            ~every.resident & (every.types == AttributeType.DATA)
        )
        owners = batch.owners()[data.rows].tolist()
        links = _may_be_links(data)
        for index, owner in enumerate(owners):
            kind = classes.get(owner)
            if kind is None and not links[index]:
                continue
            runs = _decode(data, index, tally.clusters)
            if kind is not None:
                tally.add(runs, kind)
            elif _is_link(table, runs):
                tally.add(runs, MetadataClass.SYMLINK)


def _may_be_links(data: Attributes) -> list[bool]:
    """Which attributes could hold the target of a symbolic link."""
    size = data.head(NonResidentField.DATA_SIZE)
    fits = (size > len(INTERIX_LINK)) & (size <= INTERIX_LINK_LIMIT)
    unnamed = data.head(AttributeField.NAME_LENGTH) == 0
    first = data.head(NonResidentField.LOWEST_VCN) == 0
    return [bool(flag) for flag in fits & unnamed & first]


def _is_link(table: MasterFileTable, runs: tuple[Run, ...]) -> bool:
    """Whether what the runs hold begins like a link of Interix."""
    if not runs or runs[0].lcn is None:
        return False
    found = table.open_runs(runs[:1]).read(0, len(INTERIX_LINK))
    return found == INTERIX_LINK


def _map_boot_places(
    source: BlockSource, geometry: Geometry, builder: ExtentBuilder
) -> None:
    """Map what the boot sector finds without $MFT."""
    size = min(BOOT_AREA_BYTES, source.size_bytes)
    builder.add(0, size, MetadataClass.BOOT_SECTOR)
    for offset in boot_sector_copies(source, geometry):
        builder.add(offset, geometry.sector_bytes, MetadataClass.BOOT_SECTOR)
    mirror = geometry.mirror_lcn * geometry.cluster_bytes
    size = min(
        MIRROR_RECORDS * geometry.record_bytes, source.size_bytes - mirror
    )
    builder.add(mirror, size, MetadataClass.MFT_MIRROR)
