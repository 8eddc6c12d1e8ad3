"""``vmsec doctor``: does all of it work?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ListCommand

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

EXIT_UNHEALTHY = 1
COLUMNS = ("service", "check", "ok", "detail")


class Doctor(ListCommand):
    """Examine the KMC and every node; exit with 1 if anything is wrong.

    Every agent really unseals a key with its TPM.
    """

    examples = ("vmsec doctor", "vmsec doctor -f json")
    healthy = True

    def take_action(
        self, _parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Ask the API."""
        report = self.app.api().get("/doctor")
        self.healthy = report["healthy"]
        return COLUMNS, [
            [finding[name] for name in COLUMNS]
            for finding in report["findings"]
        ]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Show the findings; tell by the exit status whether all is well."""
        return super().run(parsed_args) or (
            0 if self.healthy else EXIT_UNHEALTHY
        )
