"""``vmsec hook``: the libvirt hook of this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsec.cli.base import ShowCommand

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

DIRECTORY = Path("/etc/libvirt/hooks")
COLUMNS = ("hook", "state", "note")


class _HookCommand(ShowCommand):
    """Works on the hook that the agent's configuration asks for."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add where the hook and its configuration are."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--directory",
            type=Path,
            default=DIRECTORY,
            help=f"libvirt's hooks (default: {DIRECTORY})",
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
    ) -> tuple[Path, Path, int]:
        """Return the agent's socket, its state directory and its deadline."""
        # Imported here: oslo takes 200 ms.
        from vmsec.conf import opts
        from vmsec.conf.agent import AgentSettings

        files = parsed_args.config_file
        argv = [] if files is None else ["--config-file", files]
        settings = AgentSettings.from_conf(opts.load(argv, "vmsec"))
        return (
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

        unknown = hookinstall.install_hook(
            parsed_args.directory, *self.places(parsed_args)
        )
        note = (
            "libvirtd does not know of it yet: run 'systemctl reload libvirtd'"
            if unknown
            else ""
        )
        return _row(parsed_args.directory, "installed", note)


class RemoveHook(_HookCommand):
    """Remove the hook; sealed VMs then start no more on this host."""

    examples = ("vmsec hook remove",)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Remove the hook."""
        from vmsec.agent import hookinstall

        hookinstall.remove_hook(parsed_args.directory)
        note = "sealed VMs start no more on this host"
        return _row(parsed_args.directory, "removed", note)


class CheckHook(_HookCommand):
    """Check that the hook is there, whole, executable and of this agent."""

    examples = ("vmsec hook check",)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Check the hook; a fault is an error with status 10."""
        from vmsec.agent import hookinstall

        hookinstall.check_hook(
            parsed_args.directory, *self.places(parsed_args)
        )
        return _row(parsed_args.directory, "installed", "")
