"""The ``vmsec`` program: options, error lines and exit statuses.

Errors are one line on standard error, ``vmsec: <what, which, what to do>``;
a traceback is shown with ``--debug`` only. The exit status tells the family
of the error (:data:`vmsec.errors.VmsecError.exit_status`); 2 is wrong usage,
130 an interruption.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from cliff.app import App
from cliff.commandmanager import CommandManager

from vmsec.cli.base import CompleteCommand, HelpCommand
from vmsec.errors import RemoteRefusedError, VmsecError

if TYPE_CHECKING:
    import argparse

    from vmsec.cli.apiclient import APIClient

NAMESPACE = "vmsec.cli"
EXIT_USAGE = 2
EXIT_SIGINT = 128 + signal.SIGINT
EXIT_SIGPIPE = 128 + signal.SIGPIPE
DESCRIPTION = (
    "Keep the disks of switched-off virtual machines from being started, "
    "mounted or read outside the cloud that owns them."
)


class OwnCommands(CommandManager):
    """The commands that vmsec itself brings, each loaded when it is used.

    Other installed packages cannot add any: the tool handles key files.
    """

    def load_commands(self, namespace: str) -> None:
        """Find the commands among the entry points of this distribution."""
        self.group_list.append(namespace)
        own = importlib.metadata.distribution("vmsec").entry_points
        for entry_point in own.select(group=namespace):
            name = entry_point.name.replace("_", " ")
            self.commands[name] = entry_point


class VmsecApp(App):
    """The cliff application behind ``vmsec``."""

    NAME = "vmsec"
    options: argparse.Namespace

    def __init__(self) -> None:
        super().__init__(
            description=DESCRIPTION,
            version=importlib.metadata.version("vmsec"),
            command_manager=OwnCommands(NAMESPACE),
            deferred_help=True,
        )
        self.command_manager.add_command("help", HelpCommand)
        self.command_manager.add_command("complete", CompleteCommand)

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, object] | None = None,
    ) -> argparse.ArgumentParser:
        """Add the options that every command takes."""
        parser = super().build_option_parser(
            description,
            version,
            {"allow_abbrev": False, **(argparse_kwargs or {})},
        )
        parser.add_argument(
            "--api-socket",
            metavar="PATH",
            help="UNIX socket of vmsec-api (default: [api] socket of "
            "/etc/vmsec/vmsec.conf, else /run/vmsec/api.sock)",
        )
        return parser

    def configure_logging(self) -> None:
        """Send log records to standard error: warnings, or more with -v."""
        level = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO}.get(
            self.options.verbose_level, logging.DEBUG
        )
        logging.basicConfig(
            level=level, stream=self.stderr, format="vmsec: %(message)s"
        )
        if self.options.log_file:
            target = logging.FileHandler(self.options.log_file)
            target.setFormatter(
                logging.Formatter(self.LOG_FILE_MESSAGE_FORMAT)
            )
            logging.getLogger().addHandler(target)

    def initialize_app(self, argv: list[str]) -> None:
        """Refuse options without a command; there is no shell to enter."""
        if not argv and not self.options.deferred_help:
            self.parser.error("which command? See 'vmsec --help'")

    def run(self, argv: list[str]) -> int:
        """Run one command; without any, show the help."""
        if not argv:
            return super().run(["--help"])
        return super().run(argv)

    def run_subcommand(self, argv: list[str]) -> int:
        """Run the command that ``argv`` names.

        Returns:
            The exit status: 0, 2 for an unknown command, or that of the
            error's family.
        """
        try:
            kind, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            return self._refuse_unknown(argv)
        command = kind(self, self.options, name)
        parser = command.get_parser(f"{self.NAME} {name}")
        arguments = parser.parse_args(rest)
        try:
            return command.run(arguments)
        except VmsecError as err:
            return self.report(err)
        except KeyboardInterrupt as err:
            self.say(str(err) or "interrupted")
            return EXIT_SIGINT
        except BrokenPipeError:
            raise
        except Exception as err:  # noqa: BLE001 - the boundary of the program
            return self.report_unknown(err)

    def report(self, err: VmsecError) -> int:
        """Write an error as one line; return its exit status."""
        if self.options.debug:
            traceback.print_exception(err, file=self.stderr)
        self.say(str(err))
        if isinstance(err, RemoteRefusedError):
            return err.status
        return err.exit_status

    def report_unknown(self, err: Exception) -> int:
        """Write an exception that nobody foresaw as one line."""
        if self.options.debug:
            traceback.print_exception(err, file=self.stderr)
        self.say(
            f"internal error: {type(err).__name__}: {err}; run it again with "
            "--debug and report what it shows"
        )
        return VmsecError.exit_status

    def api(self) -> APIClient:
        """Return a client of the API that the options name."""
        # Imported here: offline commands do without.
        from vmsec.cli.apiclient import (
            APIClient,
            api_socket,
        )

        return APIClient(api_socket(self.options.api_socket))

    def say(self, text: str) -> None:
        """Write one line to standard error."""
        self.stderr.write(f"vmsec: {' '.join(text.split())}\n")

    def _refuse_unknown(self, argv: list[str]) -> int:
        words = " ".join(argv[:2])
        close = sorted(
            name
            for name, _ in self.command_manager
            if name.startswith(argv[0])
        )
        hint = f" ({', '.join(close)})" if close else ""
        self.say(f"no command '{words}'; see 'vmsec --help'{hint}")
        return EXIT_USAGE


def main(argv: list[str] | None = None) -> int:
    """Run ``vmsec`` with the given arguments.

    Returns:
        The exit status.
    """
    app = VmsecApp()
    try:
        status = app.run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; nothing can be said to it any more.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return EXIT_SIGPIPE
    return status
