"""``vmsec image diff``: what differs between two disks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from vmsec.cli.base import ListCommand
from vmsec.cli.imagebase import settings_of
from vmsec.cli.imageformat import AUTO, decide_format
from vmsec.sealing.model import FORMATS, ImageRef
from vmsec.units import format_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from vmsec.sealing.difference import Difference

EXIT_DIFFERENT = 1
COLUMNS = ("class", "extents", "bytes", "first_offsets", "a", "b")


_LONGEST = 36
"""A UUID is so long."""


class Amount(FormattableColumn[Any]):
    """A number of bytes, a word, or nothing."""

    def human_readable(self) -> str:
        """Write numbers with a unit."""
        if self._value is None:
            return "-"
        if isinstance(self._value, int):
            return format_bytes(self._value)
        return str(self._value)


class Count(FormattableColumn[Any]):
    """A number that is no number of bytes, a word, or nothing."""

    def human_readable(self) -> str:
        """Write it as it is; of a digest the beginning tells enough."""
        text = "-" if self._value is None else str(self._value)
        return text if len(text) <= _LONGEST else f"{text[:16]}..."


class Offsets(FormattableColumn[Any]):
    """Places on a disk."""

    def human_readable(self) -> str:
        """Write them in one line."""
        return ", ".join(map(str, self._value)) or "-"


class DiffImages(ListCommand):
    """Show which classes of metadata differ between two images.

    The exit status is 0 if nothing differs and 1 if something does. Of two
    sealed images the marks are compared. The images are neither changed nor
    locked.
    """

    conflict_handler = "resolve"  # --format is the images', -f the output's
    examples = (
        "vmsec image diff before.img after.img",
        "vmsec image diff disk.qcow2 copy.img --format-a qcow2 --contents",
        "vmsec image diff a.img b.img -f json",
    )
    _differs = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the images, their formats, and what to compare."""
        parser = super().get_parser(prog_name)
        for name in "ab":
            parser.add_argument(
                name, metavar=name.upper(), type=Path, help="image or device"
            )
        for option, what in (
            ("--format", "of both images"),
            ("--format-a", "of A"),
            ("--format-b", "of B"),
        ):
            parser.add_argument(
                option,
                dest=f"image{option[1:].replace('-', '_')}",
                choices=(*FORMATS, AUTO),
                default=AUTO if option == "--format" else None,
                help=f"format {what}; see 'vmsec image status --help'",
            )
        parser.add_argument(
            "--contents",
            action="store_true",
            help="compare plain disks everywhere, not only their metadata",
        )
        parser.add_argument(
            "--journal-dir",
            metavar="DIR",
            type=Path,
            help="where journals lie (default: beside the images; block "
            "devices need one)",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Compare the images."""
        # Imported here, as all of the engine: see vmsec.cli.image.
        from vmsec.sealing.difference import compare_images

        args = parsed_args
        done = compare_images(
            _image(args.a, args.image_format_a or args.image_format),
            _image(args.b, args.image_format_b or args.image_format),
            settings=settings_of(args),
            contents=args.contents,
        )
        self._differs = bool(done.differences)
        if args.formatter == "table" and self.app.options.verbose_level:
            for note in done.notes:
                self.app.say(note)
        return COLUMNS, [_row(item) for item in done.differences]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Show what differs; tell by the exit status whether anything."""
        return super().run(parsed_args) or (
            EXIT_DIFFERENT if self._differs else 0
        )


def _image(path: Path, wanted: str) -> ImageRef:
    return ImageRef(path, decide_format(path, wanted))


def _row(item: Difference) -> tuple[object, ...]:
    # A generation is no number of bytes.
    plain = item.size is None
    value = Count if plain else Amount
    return (
        item.name,
        Count(item.extents),
        Amount(item.size),
        Offsets(list(item.first_offsets)),
        value(item.a),
        value(item.b),
    )
