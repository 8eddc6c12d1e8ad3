"""Read a partition table with libparted, in a process of its own.

Run as a program by :mod:`vmsec.sealing.labelcheck`, never imported by a
service. Libparted ends the process (SIGABRT) on some hostile labels, and its
signal handling and locale changes are not for threads; here it meets the
guest's bytes without keys in memory and with nothing to lose.

Takes a path and the directory of pyparted; writes one JSON object to standard
output: ``label`` (libparted's name, or empty), ``sector_bytes``,
``partitions`` (pairs of offset and length in bytes), or ``error``. It uses
pyparted's binding alone and starts without Python's ``site``: a seal waits.

Crash:
    The disk is only read. Libparted opens it for writing where it can, but
    no call here writes, and the file size limit of zero refuses a write to
    an image file anyway.
"""

from __future__ import annotations

import json
import resource
import sys

sys.path.append(sys.argv[2])

import _ped

_CPU_SECONDS = 20
_MEMORY_BYTES = 1 << 30

_NO_PARTITION = (
    _ped.PARTITION_FREESPACE
    | _ped.PARTITION_METADATA
    | _ped.PARTITION_PROTECTED
)

_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_CPU, _CPU_SECONDS),
    (resource.RLIMIT_AS, _MEMORY_BYTES),
)


def restrict() -> None:
    """Bound what a hostile label can make libparted do."""
    for name, limit in _LIMITS:
        resource.setrlimit(name, (limit, limit))


def leave_unhandled(_kind: int, _options: int, _text: str) -> int:
    """Answer libparted's questions with silence: nothing is ever fixed."""
    return int(_ped.EXCEPTION_RESOLVE_UNHANDLED)


def read_label(path: str) -> dict[str, object]:
    """Return what libparted reads at a path."""
    # pyparted keeps no reference to the handler: it must be a module's own.
    _ped.register_exn_handler(leave_unhandled)
    try:
        device = _ped.device_get(path)
        sector = device.sector_size
        if not _has_label(device):
            return {"label": "", "sector_bytes": sector, "partitions": []}
        disk = _ped.Disk(device)
        return {
            "label": disk.type.name,
            "sector_bytes": sector,
            "partitions": [
                (geometry.start * sector, geometry.length * sector)
                for geometry in _geometries(disk)
            ],
        }
    except Exception as err:  # noqa: BLE001 - pyparted's errors share no base
        return {"error": " ".join(str(err).split())}


def _geometries(disk: _ped.Disk) -> list[_ped.Geometry]:
    """Return where the partitions lie, extended and logical ones included."""
    found, part = [], disk.next_partition()
    while part:
        if not part.type & _NO_PARTITION:
            found.append(part.geom)
        part = disk.next_partition(part)
    return found


def _has_label(device: _ped.Device) -> bool:
    """Whether libparted knows the label, as against failing to read it."""
    device.open()
    try:
        device.disk_probe()
    except _ped.IOException:
        return False
    finally:
        device.close()
    return True


if __name__ == "__main__":
    restrict()
    json.dump(read_label(sys.argv[1]), sys.stdout)
