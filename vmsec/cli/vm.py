"""``vmsec vm``: protected VMs, through the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ListCommand, Records, ShowCommand, columns_of
from vmsec.units import format_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

LEVELS = ("boot", "metadata")
"""Sealing levels that can be chosen (DESIGN 3.1)."""


class DiskRecords(Records):
    """The disks of a VM; for people, one line each."""

    def human_readable(self) -> str:
        """Write what matters of every disk."""
        return "\n".join(map(_disk_line, self._value)) or "none reported yet"


def _disk_line(disk: dict[str, Any]) -> str:
    return (
        f"{disk['target']}: {disk['state']}, generation "
        f"{disk['generation']}, key version {disk['key_version']}, "
        f"{format_bytes(disk['sealed_bytes'])} of "
        f"{format_bytes(disk['disk_bytes'])} sealed ({disk['disk']})"
    )


def _with_disks(
    record: dict[str, Any],
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    names, values = columns_of(
        {name: value for name, value in record.items() if name != "disks"}
    )
    return (*names, "disks"), (*values, DiskRecords(record["disks"]))


def add_vm_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``VM``."""
    parser.add_argument("vm", metavar="VM", help="UUID of the VM")


class ListVMs(ListCommand):
    """List the protected VMs."""

    examples = ("vmsec vm list -f json",)

    def take_action(
        self, _parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Ask the API; a VM's disks are told in one word."""
        vms = self.app.api().get("/vms")["vms"]
        names = ("vm", "name", "project", "node", "level", "key_version")
        return (*names, "state", "disks"), [
            (*(vm[name] for name in names), vm["state"], len(vm["disks"]))
            for vm in vms
        ]


class ShowVM(ShowCommand):
    """Show a protected VM and its disks."""

    examples = ("vmsec vm show 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM."""
        parser = super().get_parser(prog_name)
        add_vm_argument(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask the API."""
        return _with_disks(self.app.api().get(f"/vms/{parsed_args.vm}")["vm"])


class ProtectVM(ShowCommand):
    """Protect a VM: make its key, and seal its disks whenever it stops.

    A running VM goes on undisturbed; its disks are sealed as it stops next.
    """

    examples = (
        "vmsec vm protect 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",
        "vmsec vm protect --level boot --name web1 "
        "6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM and what to record about it."""
        parser = super().get_parser(prog_name)
        add_vm_argument(parser)
        parser.add_argument("--name", default="", help="a name for listings")
        parser.add_argument("--project", default="", help="who owns the VM")
        parser.add_argument(
            "--level",
            choices=LEVELS,
            default="metadata",
            help="how much of each disk to seal (default: metadata)",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask the API."""
        body = {
            name: getattr(parsed_args, name)
            for name in ("vm", "name", "project", "level")
        }
        return _with_disks(self.app.api().post("/vms", body)["vm"])


class _ActOnVM(ShowCommand):
    """Has the agent of the VM's node do something now."""

    action: str

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM."""
        parser = super().get_parser(prog_name)
        add_vm_argument(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask the API and wait for the outcome."""
        job = self.app.api().post(
            f"/vms/{parsed_args.vm}/actions", {"action": self.action}
        )["job"]
        for disk in job["disks"]:
            disk.pop("manifest")
        return ("vm", "disks", "notes"), (
            job["vm"],
            DiskRecords(job["disks"]),
            Records(job["notes"]),
        )


class SealVM(_ActOnVM):
    """Seal the disks of a stopped VM now."""

    action = "seal"
    examples = ("vmsec vm seal 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",)


class UnsealVM(_ActOnVM):
    """Unseal the disks of a stopped VM, for work on them by hand."""

    action = "unseal"
    examples = ("vmsec vm unseal 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",)


class RekeyVM(_ActOnVM):
    """Give a VM a new key version and seal its disks with it.

    The disks of a stopped VM are re-encrypted now; a running VM takes the
    new key as it stops.
    """

    action = "rekey"
    examples = ("vmsec vm rekey 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",)
