"""What the ``vmsec image`` commands show."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from vmsec.cli.base import Records
from vmsec.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vmsec.sealing.model import (
        ImageReport,
        ImageStatus,
        PartitionReport,
        SealReport,
    )

    Shown = tuple[Sequence[str], Iterable[Any]]

IN_THE_DISK = "in the disk"

PLANNED = "A level that seals the contents too (allocated) is planned."


class Bytes(FormattableColumn[int]):
    """A number of bytes; people read it in binary units."""

    def human_readable(self) -> str:
        """Write it with a unit."""
        return format_bytes(self._value)


class Classes(Records):
    """Classes of metadata; people read one line per class."""

    def human_readable(self) -> str:
        """Write every class with its extents and bytes."""
        return "\n".join(
            f"{name}: {count['extents']} extents, "
            f"{format_bytes(count['bytes'])}"
            for name, count in self._value.items()
        )


class Partitions(Records):
    """Partitions; people read one line per partition."""

    def human_readable(self) -> str:
        """Write every partition with what it holds."""
        return "\n".join(map(_partition_line, self._value)) or "none"


def _partition_line(part: dict[str, Any]) -> str:
    note = f" ({part['note']})" if part["note"] else ""
    return (
        f"{part['number']}: {part['filesystem'] or part['status']}, "
        f"{format_bytes(part['length'])} at {part['offset']}{note}"
    )


def _classes(counts: dict[str, tuple[int, int]]) -> Classes:
    return Classes(
        {
            name: {"extents": extents, "bytes": size}
            for name, (extents, size) in counts.items()
        }
    )


def _show(record: dict[str, Any]) -> Shown:
    return tuple(record), tuple(record.values())


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def plain_partition(part: PartitionReport) -> dict[str, Any]:
    """Turn a partition into a map of plain types: YAML knows no others."""
    return {
        name: str(value) if isinstance(value, str) else value
        for name, value in dataclasses.asdict(part).items()
    }


def status_columns(status: ImageStatus) -> Shown:
    """Show what the mark says; it is not authenticated without a key."""
    return _show(
        {
            "state": status.state,
            "vm": _text(status.vm),
            "disk": _text(status.disk),
            "generation": status.generation,
            "key_version": status.key_version,
            "level": _text(status.level),
            "disk_bytes": Bytes(status.disk_bytes),
            "journal": status.journal,
        }
    )


def inspect_columns(report: ImageReport) -> Shown:
    """Show what would be sealed."""
    return _show(
        {
            "label": report.label,
            "level": str(report.level),
            "disk_bytes": Bytes(report.disk_bytes),
            "sealed_bytes": Bytes(report.sealed_bytes),
            "partitions": Partitions(
                list(map(plain_partition, report.partitions))
            ),
            "classes": _classes(report.classes),
            "notes": Records(list(report.notes)),
            "stays_readable": f"{report.stays_readable} {PLANNED}",
        }
    )


def seal_columns(report: SealReport, beside: Path) -> Shown:
    """Show what a seal did, and where its manifest is."""
    place = IN_THE_DISK if report.embedded else str(beside)
    return _show({**_report("sealed", report), "manifest": place})


def report_columns(state: str, report: SealReport) -> Shown:
    """Show what an unseal or a verification did."""
    return _show(_report(state, report))


def _report(state: str, report: SealReport) -> dict[str, Any]:
    return {
        "state": state,
        "vm": str(report.vm),
        "disk": str(report.disk),
        "generation": report.generation,
        "key_version": report.key_version,
        "level": str(report.level),
        "extents": report.extents,
        "sealed_bytes": Bytes(report.sealed_bytes),
        "disk_bytes": Bytes(report.disk_bytes),
        "seconds": round(report.seconds, 3),
        "classes": _classes(report.classes),
    }
