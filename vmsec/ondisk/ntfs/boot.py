"""The boot sector: how large things are and where the MFT begins.

Source:
    Linux fs/ntfs3/super.c, ``ntfs_init_from_boot`` and
    ``true_sectors_per_clst``; libfsntfs, "The volume header".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError, UnsupportedFormatError
from vmsec.ondisk.ntfs.layout import (
    BOOT_SECTOR_BYTES,
    BOOT_SIGNATURE,
    OEM_ID,
    OEM_ID_OFFSET,
    BootField,
)

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

SECTOR_SIZES = (512, 1024, 2048, 4096)
MAX_CLUSTER_BYTES = 2 << 20
"""The largest that Windows makes (since Windows 10 1709)."""

RECORD_SIZES = (512, 1024, 2048, 4096)
"""Windows makes 1024 and 4096; ``MAXIMUM_BYTES_PER_MFT`` in Linux is 4096."""


class Geometry(NamedTuple):
    """What the boot sector says, checked against the size of the source.

    ``total_sectors`` leaves out the last sector of the partition, which holds
    the copy of the boot sector; ``clusters`` are whole clusters only.
    """

    sector_bytes: int
    cluster_bytes: int
    record_bytes: int
    total_sectors: int
    clusters: int
    mft_lcn: int
    mirror_lcn: int


def is_ntfs(source: BlockSource) -> bool:
    """Whether the source begins with the boot sector of an NTFS volume."""
    if source.size_bytes < BOOT_SECTOR_BYTES:
        return False
    found = source.read_at(OEM_ID_OFFSET, len(OEM_ID))
    return found == OEM_ID


def read_geometry(source: BlockSource) -> Geometry:
    """Read and check the boot sector.

    Raises:
        CorruptImageError: No boot sector, or it contradicts the source.
        UnsupportedFormatError: Sizes that no NTFS driver makes.
    """
    if not is_ntfs(source):
        raise CorruptImageError("there is no NTFS boot sector")
    boot = source.read_at(0, BOOT_SECTOR_BYTES)
    sector = BootField.SECTOR_BYTES.read(boot)
    if sector not in SECTOR_SIZES:
        raise UnsupportedFormatError(f"NTFS: sectors of {sector} bytes")
    cluster = sector * _sectors_per_cluster(boot)
    if cluster > MAX_CLUSTER_BYTES:
        raise UnsupportedFormatError(f"NTFS: clusters of {cluster} bytes")
    total = BootField.TOTAL_SECTORS.read(boot)
    if total * sector > source.size_bytes:
        raise CorruptImageError(
            f"the NTFS volume has {total} sectors of {sector} bytes, more "
            f"than the {source.size_bytes} bytes of its partition"
        )
    geometry = Geometry(
        sector,
        cluster,
        _record_bytes(boot, cluster),
        total,
        total * sector // cluster,
        BootField.MFT_LCN.read(boot),
        BootField.MIRROR_LCN.read(boot),
    )
    if max(geometry.mft_lcn, geometry.mirror_lcn) >= geometry.clusters:
        raise CorruptImageError("the NTFS boot sector places $MFT outside")
    return geometry


def _sectors_per_cluster(boot: bytes) -> int:
    """Decode a power of two, or minus its logarithm (clusters > 64 KiB)."""
    value = BootField.SECTORS_PER_CLUSTER.read(boot)
    # true_sectors_per_clst: 0xF4 and more are minus the logarithm.
    count = 1 << (256 - value) if value >= 0xF4 else value
    if count.bit_count() != 1 or 0x80 < value < 0xF4:
        raise CorruptImageError(f"NTFS: {value:#x} sectors in a cluster")
    return count


def _record_bytes(boot: bytes, cluster: int) -> int:
    """Decode clusters in a FILE record, or minus the logarithm of bytes."""
    value = BootField.RECORD_SIZE.read(boot, signed=True)
    size = value * cluster if value >= 0 else 1 << -value
    if size not in RECORD_SIZES:
        raise UnsupportedFormatError(f"NTFS: FILE records of {size} bytes")
    return size


def boot_sector_copies(
    source: BlockSource, geometry: Geometry
) -> tuple[int, ...]:
    """Find the copies of the boot sector, by place and content.

    The copy lies behind the last sector of the volume, which is the last of
    the partition unless the partition has grown, or ends the cluster that
    follows the last one. NT 3.51 put it into the middle of the volume.

    Returns:
        Byte offsets of the copies that are there, in order.

    Source:
        libfsntfs, "The volume header"; Microsoft knowledge base Q153973.
    """
    sector = geometry.sector_bytes
    places = {
        geometry.total_sectors // 2 * sector,
        geometry.total_sectors * sector,
        (geometry.clusters + 1) * geometry.cluster_bytes - sector,
        source.size_bytes // sector * sector - sector,
    }
    return tuple(at for at in sorted(places) if _is_boot(source, at, sector))


def _is_boot(source: BlockSource, offset: int, sector: int) -> bool:
    """Whether a boot sector of NTFS begins at ``offset``."""
    if offset <= 0 or offset + sector > source.size_bytes:
        return False
    found = source.read_at(offset, BOOT_SECTOR_BYTES)
    signature = BootField.SIGNATURE.read(found)
    return (
        found[OEM_ID_OFFSET : OEM_ID_OFFSET + len(OEM_ID)] == OEM_ID
        and signature == BOOT_SIGNATURE
    )
