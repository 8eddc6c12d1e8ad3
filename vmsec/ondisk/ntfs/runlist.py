"""Run lists (mapping pairs): where a non-resident attribute lies.

A run list is hostile until it is decoded: every run is checked against the
number of clusters of the volume before it is believed.

Units:
    VCN (virtual cluster number) counts clusters from the start of an
    attribute, LCN (logical) from the start of the volume.

Source:
    Linux fs/ntfs3/run.c, ``run_unpack``.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, NamedTuple

from vmsec.errors import CorruptImageError
from vmsec.ondisk.ntfs.layout import (
    NON_RESIDENT_HEAD_BYTES,
    NonResidentField,
)

if TYPE_CHECKING:
    from vmsec.ondisk.source import BlockSource

MAX_NUMBER_BYTES = 8
"""A length or a distance of a run is a number of at most 64 bits."""


class Run(NamedTuple):
    """A run of ``length`` clusters; ``lcn`` is ``None`` for a hole."""

    vcn: int
    lcn: int | None
    length: int


def decode_runs(attribute: bytes, clusters: int) -> tuple[Run, ...]:
    """Decode the run list of a non-resident attribute.

    Args:
        attribute: The whole attribute, from its first byte to its last.
        clusters: How many clusters the volume has.

    Returns:
        The runs in VCN order, holes among them; the first begins at the
        attribute's lowest VCN. Empty if nothing is allocated.

    Raises:
        CorruptImageError: The list breaks off, leaves the volume, or does
            not cover just the VCNs that the attribute's head states.
    """
    start = NonResidentField.RUNS_OFFSET.read(attribute)
    lowest = NonResidentField.LOWEST_VCN.read(attribute, signed=True)
    highest = NonResidentField.HIGHEST_VCN.read(attribute, signed=True)
    if not NON_RESIDENT_HEAD_BYTES <= start <= len(attribute) or lowest < 0:
        raise CorruptImageError("the head of a run list is wrong")
    runs = _decode(attribute[start:], lowest, clusters)
    end = runs[-1].vcn + runs[-1].length if runs else lowest
    # run_unpack: "Not expected length of unpacked runs". An empty attribute
    # states -1, and 0 where ntfs-3g made it.
    if end != highest + 1 and (runs or highest != 0):
        raise CorruptImageError(
            f"a run list ends at VCN {end}, its head says {highest + 1}"
        )
    return runs


def _decode(data: bytes, vcn: int, clusters: int) -> tuple[Run, ...]:
    """Decode mapping pairs up to the terminating zero."""
    runs: list[Run] = []
    at = lcn = 0
    while at < len(data) and data[at]:
        length_bytes, distance_bytes = data[at] & 15, data[at] >> 4
        middle = at + 1 + length_bytes
        end = middle + distance_bytes
        if end > len(data) or length_bytes > MAX_NUMBER_BYTES:
            raise CorruptImageError("a run list breaks off")
        count = int.from_bytes(data[at + 1 : middle], "little", signed=True)
        distance = int.from_bytes(data[middle:end], "little", signed=True)
        lcn += distance
        # NTFS 1.2 writes a hole as a run at LCN -1 (libntfs-3g runlist.c).
        hole = not distance_bytes or (lcn == distance == -1)
        _require_run(lcn, count, clusters, hole=hole)
        runs.append(Run(vcn, None if hole else lcn, count))
        vcn, at = vcn + count, end
    return tuple(runs)


def _require_run(lcn: int, count: int, clusters: int, *, hole: bool) -> None:
    """Check that a run is not empty and lies inside the volume."""
    inside = hole or (lcn >= 0 and lcn + count <= clusters)
    if count <= 0 or not inside:
        raise CorruptImageError(
            f"a run of {count} clusters at LCN {lcn} is not inside the "
            f"{clusters} clusters of the volume"
        )


class ClusterStream:
    """The content of a non-resident attribute, read through its runs.

    Args:
        source: The volume.
        cluster_bytes: Bytes in a cluster.
    """

    def __init__(self, source: BlockSource, cluster_bytes: int) -> None:
        self._source, self._cluster = source, cluster_bytes
        self._runs: list[Run] = []
        self._starts: list[int] = []

    @property
    def clusters(self) -> int:
        """How many clusters the runs make up."""
        return self._runs[-1].vcn + self._runs[-1].length if self._runs else 0

    @property
    def size_bytes(self) -> int:
        """Length of the attribute as allocated, in bytes."""
        return self.clusters * self._cluster

    def extend(self, runs: tuple[Run, ...]) -> None:
        """Add runs; the first begins where those so far end.

        Raises:
            CorruptImageError: It begins elsewhere.
        """
        for run in runs:
            if run.vcn != self.clusters:
                raise CorruptImageError(
                    f"a run list goes on at VCN {run.vcn}, not at "
                    f"{self.clusters}"
                )
            self._runs.append(run)
            self._starts.append(run.vcn * self._cluster)

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes at ``offset`` of the attribute.

        Raises:
            CorruptImageError: They are not allocated.
        """
        pieces: list[bytes] = []
        index = bisect.bisect_right(self._starts, offset) - 1
        while length > 0:
            if not 0 <= index < len(self._runs):
                raise CorruptImageError(
                    f"byte {offset} of a system attribute is not allocated"
                )
            piece = self._piece(self._runs[index], offset, length)
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
            index += 1
        return b"".join(pieces)

    def _piece(self, run: Run, offset: int, length: int) -> bytes:
        """Read what one run holds of a range that begins in it."""
        skip = offset - run.vcn * self._cluster
        length = min(length, run.length * self._cluster - skip)
        if run.lcn is None or length <= 0:
            raise CorruptImageError(
                f"byte {offset} of a system attribute is not allocated"
            )
        return self._source.read_at(run.lcn * self._cluster + skip, length)
