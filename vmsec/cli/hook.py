"""``vmsec hook``: the libvirt hook of this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ShowCommand

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

COLUMNS = ("hook", "state", "note")


class _HookCommand(ShowCommand):
    """Works on the hook that the agent's configuration asks for."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add where the hook and its configuration are."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--directory",
            type=Path,
            help="libvirt's hooks (default: [agent] hook_directory)",
        )
        parser.add_argument(
            "--config-file",
            metavar="FILE",
            help="configuration of vmsec-agent "
            "(default: /etc/vmsec/vmsec.conf)",
        )
        return parser

    def places(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Path, Path, Path, int]:
        """Return the hooks, the agent's socket and state, and its deadline."""
        # Imported here: oslo takes 200 ms.
        from vmsec.conf import opts
        from vmsec.conf.agent import AgentSettings

        files = parsed_args.config_file
        argv = [] if files is None else ["--config-file", files]
        settings = AgentSettings.from_conf(opts.load(argv, "vmsec"))
        return (
            parsed_args.directory or settings.hook_directory,
            settings.socket,
            settings.state_directory,
            settings.hook_deadline_seconds,
        )


def _row(
    directory: Path, state: str, note: str
) -> tuple[Sequence[str], Iterable[Any]]:
    # Imported here: only these commands need anything of the agent.
    from vmsec.agent.hookinstall import HOOK_NAME

    return COLUMNS, (str(directory / "qemu.d" / HOOK_NAME), state, note)


class InstallHook(_HookCommand):
    """Install or renew the hook by which libvirtd asks the agent."""

    examples = ("vmsec hook install && systemctl reload libvirtd",)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Write the hook."""
        from vmsec.agent import hookinstall

        places = self.places(parsed_args)
        unknown = hookinstall.install_hook(*places)
        note = (
            "libvirtd does not know of it yet: run 'systemctl reload libvirtd'"
            if unknown
            else ""
        )
        return _row(places[0], "installed", note)


class RemoveHook(_HookCommand):
    """Remove the hook; sealed VMs then start no more on this host."""

    examples = ("vmsec hook remove",)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Remove the hook."""
        from vmsec.agent import hookinstall

        directory = self.places(parsed_args)[0]
        hookinstall.remove_hook(directory)
        note = "sealed VMs start no more on this host"
        return _row(directory, "removed", note)


class CheckHook(_HookCommand):
    """Check that the hook is there, whole, executable and of this agent."""

    examples = ("vmsec hook check",)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Check the hook; a fault is an error with status 10."""
        from vmsec.agent import hookinstall

        places = self.places(parsed_args)
        hookinstall.check_hook(*places)
        return _row(places[0], "installed", "")
