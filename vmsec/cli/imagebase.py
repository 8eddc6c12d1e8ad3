"""What the ``vmsec image`` commands share: arguments, progress, Ctrl-C."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vmsec.cli import imagereport, keyfile
from vmsec.cli.base import ShowCommand
from vmsec.cli.beside import BesideManifestStore
from vmsec.cli.imageformat import AUTO, decide_format
from vmsec.cli.progress import progress_bar
from vmsec.errors import ConfigurationError, ForeignImageError, VmsecError
from vmsec.ondisk.extent import Level
from vmsec.sealing.model import FORMATS, ImageRef, SealSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from vmsec.cli.imagereport import Shown
    from vmsec.sealing.model import KeySource, Progress
    from vmsec.secret import SecretBytes


class ImageCommand(ShowCommand):
    """Works on one image."""

    conflict_handler = "resolve"  # --format is the image's, -f the output's
    needs_key = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the image, its format, its journal and, if needed, the key."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "path", metavar="PATH", type=Path, help="image or block device"
        )
        parser.add_argument(
            "--format",
            dest="image_format",
            choices=(*FORMATS, AUTO),
            default=AUTO,
            help="format of the image; auto is raw, and refuses what looks "
            "like a container, because a guest can forge that",
        )
        parser.add_argument(
            "--journal-dir",
            metavar="DIR",
            type=Path,
            help="where the journal lies (default: beside the image; "
            "block devices need one)",
        )
        if self.needs_key:
            add_key_argument(parser, required=True)
        return parser

    def image(self, parsed_args: argparse.Namespace) -> ImageRef:
        """Return the image with its format decided."""
        path = parsed_args.path
        return ImageRef(path, decide_format(path, parsed_args.image_format))

    def status(self, parsed_args: argparse.Namespace) -> Shown:
        """Show what the mark and the journal say; no key is needed."""
        # Imported here, as all of the engine: see vmsec.cli.image.
        from vmsec.sealing.status import read_status

        status = read_status(
            self.image(parsed_args), settings=settings_of(parsed_args)
        )
        return imagereport.status_columns(status)

    def inspect(self, parsed_args: argparse.Namespace) -> Shown:
        """Show what would be sealed; change nothing."""
        from vmsec.sealing.inspection import (
            inspect_image,
        )

        report = inspect_image(
            self.image(parsed_args), settings=settings_of(parsed_args)
        )
        return imagereport.inspect_columns(report)

    def verify(self, parsed_args: argparse.Namespace) -> Shown:
        """Check the key, the VM and every sealed part; change nothing.

        An interrupted change is finished first, as before any other.
        """
        from vmsec.sealing.engine import verify_image

        image, settings = self.image(parsed_args), settings_of(parsed_args)
        with (
            keyfile.read_key(parsed_args.key_file) as key,
            self.interruptible("verifying", image, settings) as progress,
        ):
            report = verify_image(
                image,
                keys=one_key(key),
                settings=settings,
                manifests=BesideManifestStore(image, settings),
                progress=progress,
            )
        vm = parse_vm(getattr(parsed_args, "vm", None))
        if vm not in (None, report.vm):
            raise ForeignImageError(
                f"{image.path}: sealed for VM {report.vm}, not for {vm}"
            )
        return imagereport.report_columns("sealed", report)

    @contextmanager
    def interruptible(
        self, title: str, image: ImageRef, settings: SealSettings
    ) -> Iterator[Progress]:
        """Show progress; after Ctrl-C say in which state the image is."""
        quiet = self.app.options.verbose_level == 0
        try:
            with progress_bar(
                f"{title} {image.path.name}", self.app.stderr, quiet=quiet
            ) as progress:
                yield progress
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                after_interruption(image, settings)
            ) from None


def add_key_argument(
    parser: argparse.ArgumentParser, *, required: bool
) -> None:
    """Add ``--key-file``."""
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        required=required,
        help="the VM's key: 32 bytes, or 64 hexadecimal digits; '-' is "
        "standard input",
    )


def add_level_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--level``."""
    parser.add_argument(
        "--level",
        type=Level,
        choices=list(Level),
        default=Level.METADATA,
        metavar="{" + ",".join(Level) + "}",
        help="how much to seal (default: metadata)",
    )


def add_dry_run(parser: argparse.ArgumentParser, effect: str) -> None:
    """Add ``--dry-run``; ``effect`` says what it does instead."""
    parser.add_argument(
        "--dry-run", action="store_true", help=f"change nothing; {effect}"
    )


def parse_vm(text: str | None) -> uuid.UUID | None:
    """Read ``--vm``.

    Raises:
        ConfigurationError: It is not a UUID.
    """
    if text is None:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ConfigurationError(f"--vm {text}: not a UUID") from None


def settings_of(parsed_args: argparse.Namespace) -> SealSettings:
    """Return the engine's settings from the arguments."""
    return SealSettings(
        level=getattr(parsed_args, "level", Level.METADATA),
        journal_directory=parsed_args.journal_dir,
    )


def one_key(key: SecretBytes) -> KeySource:
    """Return a key source that has this key for every VM and version."""
    return lambda _vm, _version: type(key)(key.reveal())


def after_interruption(image: ImageRef, settings: SealSettings) -> str:
    """Say in which state an interrupted command left an image."""
    from vmsec.sealing.status import read_status

    try:
        status = read_status(image, settings=settings)
    except VmsecError as err:
        return f"interrupted; {err}"
    if status.state == "interrupted":
        return (
            f"interrupted; {image.path} is half done and its journal "
            f"{status.journal} is needed: run "
            f"'vmsec image recover {image.path}'"
        )
    return f"interrupted; {image.path} is {status.state} and whole"
