"""``vmsec image``: work on a disk image with a key file, without services.

The modules of the engine are imported where they are used: ``vmsec image
status`` needs little of it and is called often.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from vmsec.cli import imagebase, imagereport, keyfile
from vmsec.cli.beside import BesideManifestStore
from vmsec.cli.imagebase import ImageCommand, settings_of
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

KEY_VERSION = 1
"""Offline there is one key, in a file; its versions are not vmsec's."""

GENERATION = 1
"""Offline every seal names the disk anew, so each is the first of its disk."""


class StatusOfImage(ImageCommand):
    """Show whether an image is plain, sealed or interrupted."""

    examples = (
        "vmsec image status disk.img",
        "vmsec image status disk.qcow2 --format qcow2 -f json",
    )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Read the mark and the journal; no key is needed."""
        return self.status(parsed_args)


class InspectImage(ImageCommand):
    """Show what of an image would be sealed, and what would stay readable."""

    examples = (
        "vmsec image inspect disk.img",
        "vmsec image inspect --level boot disk.img -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the level."""
        parser = super().get_parser(prog_name)
        imagebase.add_level_argument(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Plan a seal, and show the plan."""
        return self.inspect(parsed_args)


class SealImage(ImageCommand):
    """Seal an image: encrypt in place what names and finds its files.

    The image must be in no use. Keep the key: without it the image stays
    sealed for ever.
    """

    examples = (
        "(umask 077; head -c 32 /dev/urandom > disk.key)",
        "vmsec image seal disk.img --key-file disk.key",
        "secret-tool lookup vm web1 | vmsec image seal disk.img --key-file -",
    )
    needs_key = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM, the level and the dry run."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--vm",
            metavar="UUID",
            help="the VM it belongs to (default: a fresh UUID)",
        )
        imagebase.add_level_argument(parser)
        imagebase.add_dry_run(parser, "show what would be sealed")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Seal the image."""
        from vmsec.sealing import engine, model

        image, settings = self.image(parsed_args), settings_of(parsed_args)
        store = BesideManifestStore(image, settings)
        vm = imagebase.parse_vm(parsed_args.vm) or uuid.uuid4()
        identity = model.SealIdentity(
            vm, uuid.uuid4(), GENERATION, KEY_VERSION
        )
        with keyfile.read_key(parsed_args.key_file) as key:
            if parsed_args.dry_run:
                return self.inspect(parsed_args)
            with self.interruptible("sealing", image, settings) as progress:
                report = engine.seal_image(
                    image,
                    identity,
                    key,
                    settings=settings,
                    manifests=store,
                    progress=progress,
                )
        if report.embedded:
            store.discard(report.disk)
        return imagereport.seal_columns(report, store.path)


class UnsealImage(ImageCommand):
    """Unseal an image: decrypt in place what a seal encrypted.

    Every part is authenticated before the first byte is written.
    """

    examples = (
        "vmsec image unseal disk.img --key-file disk.key",
        "vmsec image unseal disk.img --key-file disk.key --dry-run",
    )
    needs_key = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the VM and the dry run."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--vm", metavar="UUID", help="refuse the image of another VM"
        )
        imagebase.add_dry_run(parser, "check the key and every sealed part")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Unseal the image."""
        from vmsec.sealing import engine

        if parsed_args.dry_run:
            return self.verify(parsed_args)
        image, settings = self.image(parsed_args), settings_of(parsed_args)
        store = BesideManifestStore(image, settings)
        vm = imagebase.parse_vm(parsed_args.vm)
        with (
            keyfile.read_key(parsed_args.key_file) as key,
            self.interruptible("unsealing", image, settings) as progress,
        ):
            report = engine.unseal_image(
                image,
                vm=vm,
                keys=imagebase.one_key(key),
                settings=settings,
                manifests=store,
                progress=progress,
            )
        store.discard(report.disk)
        return imagereport.report_columns("plain", report)


class VerifyImage(ImageCommand):
    """Check the key and every sealed part of an image; change nothing."""

    examples = ("vmsec image verify disk.img --key-file disk.key",)
    needs_key = True

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Verify the image."""
        return self.verify(parsed_args)


class RecoverImage(ImageCommand):
    """Finish what an interruption left: the image ends sealed.

    This needs no key. With --roll-back and the key an interrupted seal is
    undone instead: the image ends plain.
    """

    examples = (
        "vmsec image recover disk.img",
        "vmsec image recover disk.img --roll-back --key-file disk.key",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add what rolling back needs."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--roll-back", action="store_true", help="end plain, not sealed"
        )
        imagebase.add_key_argument(parser, required=False)
        imagebase.add_dry_run(parser, "show the state")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Recover the image."""
        from vmsec.sealing import engine

        if parsed_args.roll_back != (parsed_args.key_file is not None):
            raise ConfigurationError(
                "recover: --roll-back and --key-file belong together"
            )
        if parsed_args.dry_run:
            return self.status(parsed_args)
        image, settings = self.image(parsed_args), settings_of(parsed_args)
        if not parsed_args.roll_back:
            recovery = engine.recover_image(image, settings=settings)
            return ("action", "state"), (recovery.action, recovery.state)
        store = BesideManifestStore(image, settings)
        with keyfile.read_key(parsed_args.key_file) as key:
            report = engine.roll_back_image(
                image,
                vm=None,
                keys=imagebase.one_key(key),
                settings=settings,
                manifests=store,
            )
        if report is None:
            return ("action", "state"), ("none", "plain")
        store.discard(report.disk)
        return ("action", "state"), ("rolled back", "plain")
