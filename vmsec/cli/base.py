"""What every ``vmsec`` command shares: help, examples, output formats.

cliff looks for hooks and formatters of other installed packages each time a
command starts. A tool that handles key files and disks takes neither: its
commands have no hooks, and the formatters are a closed table.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, cast

from cliff import columns, command, complete, display, lister, show
from cliff import help as cliff_help
from cliff.formatters import (
    base,
    commaseparated,
    json_format,
    table,
    value,
    yaml_format,
)
from stevedore import extension

from vmsec.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from vmsec.cli.app import VmsecApp


def _flat(row: Sequence[Any]) -> list[Any]:
    """Make one text of each nested value: JSON, which scripts can read."""
    plain = [
        cell.machine_readable()
        if isinstance(cell, columns.FormattableColumn)
        else cell
        for cell in row
    ]
    return [
        json.dumps(cell) if isinstance(cell, (dict, list)) else cell
        for cell in plain
    ]


class CSVFormatter(commaseparated.CSVLister, base.SingleFormatter):
    """Comma-separated values, also for a single object (one row)."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a header and the rows."""
        rows = map(_flat, data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write a header and one row."""
        self.emit_list(column_names, [data], stdout, parsed_args)


class ValueFormatter(value.ValueFormatter):
    """Values alone, for scripts."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write one line per row."""
        rows = map(_flat, data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write one line per value."""
        super().emit_one(column_names, _flat(data), stdout, parsed_args)


FORMATTERS: dict[str, type[base.Formatter]] = {
    "csv": CSVFormatter,
    "json": json_format.JSONFormatter,
    "table": table.TableFormatter,
    "value": ValueFormatter,
    "yaml": yaml_format.YAMLFormatter,
}
"""The output formats of ``-f``; every command has them all."""


class Records(columns.FormattableColumn[Any]):
    """A nested value: a list of maps or a map of maps.

    Machine formats get it as it is; people get one line per entry.
    """

    def human_readable(self) -> str:
        """Write one line per entry, ``name: value`` inside it."""
        return "\n".join(_lines(self._value)) or "-"


def _lines(nested: Any) -> Iterable[str]:  # noqa: ANN401 - any JSON value
    if isinstance(nested, dict):
        for name, entry in nested.items():
            yield f"{name}: {_one_line(entry)}"
    else:
        yield from map(_one_line, nested)


def _one_line(entry: Any) -> str:  # noqa: ANN401 - any JSON value
    if not isinstance(entry, dict):
        return str(entry)
    return ", ".join(
        f"{name} {value}" for name, value in entry.items() if value != ""
    )


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of descriptions and examples."""


class VmsecCommand(command.Command):
    """A command without hooks, with examples below its help."""

    app: VmsecApp
    examples: tuple[str, ...] = ()

    def _load_hooks(self) -> None:
        self._hooks = []

    def get_epilog(self) -> str:
        """Return the examples, one per line."""
        if not self.examples:
            return ""
        return "\n  ".join(("examples:", *self.examples))

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Build the parser, with line breaks kept in the help."""
        parser = super().get_parser(prog_name)
        parser.formatter_class = HelpFormatter
        parser.allow_abbrev = False
        return parser


class HelpCommand(VmsecCommand, cliff_help.HelpCommand):
    """Show the help of a command."""


class CompleteCommand(VmsecCommand, complete.CompleteCommand):
    """Print the completion script for bash."""

    examples = ("vmsec complete > /etc/bash_completion.d/vmsec",)


def _closed_formatters() -> extension.ExtensionManager[Any]:
    """Build the closed table in the shape that cliff wants."""
    return extension.ExtensionManager.make_test_instance(
        [
            extension.Extension(name, cast("Any", None), kind, kind())
            for name, kind in FORMATTERS.items()
        ],
        namespace="vmsec.formatter",
    )


class _Displaying(VmsecCommand, display.DisplayCommandBase[Any]):
    """Output by the closed table of formatters."""

    def _load_formatter_plugins(self) -> extension.ExtensionManager[Any]:
        return _closed_formatters()

    def _generate_columns_and_selector(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str]
    ) -> tuple[list[str], list[bool] | None]:
        try:
            return super()._generate_columns_and_selector(
                parsed_args, column_names
            )
        except ValueError as err:
            raise RequestError(
                f"--column: choose of {', '.join(column_names)}"
            ) from err


class ShowCommand(_Displaying, show.ShowOne):
    """A command that shows one object."""


class ListCommand(_Displaying, lister.Lister):
    """A command that lists objects."""


def columns_of(
    record: dict[str, Any],
) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Turn a map into what a :class:`ShowCommand` shows.

    Lists and maps inside it become :class:`Records`.
    """
    return tuple(record), tuple(
        Records(value) if isinstance(value, (list, dict)) else value
        for value in record.values()
    )
