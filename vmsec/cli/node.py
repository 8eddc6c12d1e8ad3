"""``vmsec node``: the compute nodes that may receive keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ListCommand, ShowCommand, columns_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

COLUMNS = ("name", "state", "srk_name", "enrolled_at")


class ListNodes(ListCommand):
    """List the enrolled nodes and the TPMs they are pinned to."""

    examples = ("vmsec node list", "vmsec node list -f value -c name")

    def take_action(
        self, _parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Ask the API."""
        nodes = self.app.api().get("/nodes")["nodes"]
        return COLUMNS, [[node[name] for name in COLUMNS] for node in nodes]


class EnrollNode(ShowCommand):
    """Enroll a node: let its TPM receive the keys of the VMs it runs.

    The node's agent must run. Compare srk_name with what 'tpm2_readpublic
    -c 0x81000001 -n' prints on the node itself.

    A name stays pinned to its TPM. After a board was changed, say --clear.
    """

    examples = (
        "vmsec node enroll compute1",
        "vmsec node enroll compute1 --clear",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the node."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NODE", help="name of the node")
        parser.add_argument(
            "--clear",
            action="store_true",
            help="forget the TPM that this name was pinned to",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Ask the API."""
        body = {"name": parsed_args.name, "clear": parsed_args.clear}
        return columns_of(self.app.api().post("/nodes", body)["node"])
