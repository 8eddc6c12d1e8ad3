"""``vmsec key``: what is known about VM keys; never the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ListCommand, ShowCommand, columns_of
from vmsec.cli.vm import add_vm_argument

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

COLUMNS = ("vm", "version", "state", "custody", "created_at")


class ListKeys(ListCommand):
    """List the versions of VM keys and their states (NIST SP 800-57)."""

    examples = (
        "vmsec key list",
        "vmsec key list --vm 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11 -f csv",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the filter."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--vm", metavar="UUID", help="of this VM only")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Ask the API."""
        query = {} if parsed_args.vm is None else {"vm": parsed_args.vm}
        keys = self.app.api().get("/keys", **query)["keys"]
        return COLUMNS, [[key[name] for name in COLUMNS] for key in keys]


class ShowKey(ShowCommand):
    """Show the active version of a VM's key, or the one that is named."""

    examples = (
        "vmsec key show --key-version 2 6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM and the version."""
        parser = super().get_parser(prog_name)
        add_vm_argument(parser)
        parser.add_argument(
            "--key-version", type=int, metavar="N", help="from 1"
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask the API."""
        path = f"/keys/{parsed_args.vm}"
        if parsed_args.key_version is not None:
            path += f"/{parsed_args.key_version}"
        return columns_of(self.app.api().get(path)["key"])
