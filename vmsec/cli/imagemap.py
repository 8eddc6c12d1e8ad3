"""``vmsec image map``: a picture of a disk.

The modules of the engine and of the picture are imported where they are used,
as in :mod:`vmsec.cli.image`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsec.cli import imagebase, keyfile
from vmsec.cli.base import Records
from vmsec.cli.beside import BesideManifestStore
from vmsec.cli.imagebase import ImageCommand, settings_of
from vmsec.cli.imagereport import Bytes, Partitions, plain_partition
from vmsec.durable import write_durable
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from vmsec.cli.picture.text import TextSheet
    from vmsec.sealing.surveyor import Survey

PICTURES = (".png", ".svg")
_SUMMARY = (
    *("image", "state", "level", "disk_bytes", "sealed_bytes"),
    "picture",
)
"""What people are told of a picture that they are going to look at."""


class MapImage(ImageCommand):
    """Draw what of an image is metadata, data and zero, and what is sealed.

    Without -o the map is text: coloured on a terminal, letters in a pipe. A
    plain image is drawn as it would be sealed. A sealed one shows without its
    key little more than what is zero. The image is neither changed nor
    locked, so a running VM does not matter.
    """

    examples = (
        "vmsec image map disk.img",
        "vmsec image map disk.img -o map.png",
        "vmsec image map sealed.img --key-file disk.key -o map.svg",
        "vmsec image map disk.img -f json -c classes -c ranges",
    )
    _sheet: TextSheet | None = None
    _survey: Survey

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the picture, the level, the key and the scan."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-o",
            "--output",
            metavar="FILE",
            type=Path,
            help="draw a picture: a name that ends in .png or .svg",
        )
        imagebase.add_level_argument(parser)
        imagebase.add_key_argument(parser, required=False)
        parser.add_argument(
            "--scan",
            action="store_true",
            help="read all stored data to find the zeros in it; as long as "
            "reading the disk takes",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Any]]:
        """Look at the image, and draw the picture if one is asked for."""
        from vmsec.cli.picture.scene import MAX_CELLS

        target: Path | None = parsed_args.output
        if target is not None:
            _require_picture(target, parsed_args.path)
        is_table = parsed_args.formatter == "table"
        cells = MAX_CELLS
        if is_table and target is None and not parsed_args.columns:
            from vmsec.cli.picture.text import TextSheet

            self._sheet = TextSheet(self.app.stdout)
            cells = self._sheet.max_cells
        self._survey = self._look(parsed_args, cells)
        if target is not None:
            _draw(self._survey, target)
        record = _record(self._survey, target)
        if is_table and not parsed_args.columns:
            record = {name: record[name] for name in _SUMMARY}
        return tuple(record), tuple(record.values())

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[Any],
    ) -> int:
        """Write the map as text, unless another format was asked for."""
        if self._sheet is None:
            status: int = super().produce_output(
                parsed_args, column_names, data
            )
            return status
        self._sheet.write(self._survey)
        return 0

    def _look(self, parsed_args: argparse.Namespace, cells: int) -> Survey:
        from vmsec.sealing.surveyor import Sight, survey_image

        image, settings = self.image(parsed_args), settings_of(parsed_args)
        with contextlib.ExitStack() as stack:
            keys = None
            if parsed_args.key_file is not None:
                key = keyfile.read_key(parsed_args.key_file)
                keys = imagebase.one_key(stack.enter_context(key))
            return survey_image(
                image,
                settings=settings,
                sight=Sight(cells, parsed_args.scan),
                keys=keys,
                manifests=BesideManifestStore(image, settings),
            )


def _require_picture(target: Path, image: Path) -> None:
    """Check that a picture can be drawn there, and is not the image itself.

    Raises:
        ConfigurationError: It is not so.
    """
    if target.suffix.lower() not in PICTURES:
        raise ConfigurationError(
            f"{target}: no such kind of picture; end its name in "
            f"{' or '.join(PICTURES)}"
        )
    try:
        same = target.samefile(image)
    except OSError:  # one of the two is not there
        same = False
    if same:
        raise ConfigurationError(f"{target}: that is the image itself")


def _draw(survey: Survey, target: Path) -> None:
    from vmsec.cli.picture.scene import lay_out

    scene = lay_out(survey)
    if target.suffix.lower() == ".svg":
        from vmsec.cli.picture.svg import draw_svg

        write_durable(target, draw_svg(scene))
    else:
        from vmsec.cli.picture.png import draw_png

        write_durable(target, draw_png(scene))


def _record(survey: Survey, target: Path | None) -> dict[str, Any]:
    """Return what is shown, in plain types for JSON and YAML."""
    context, chart = survey.context, survey.chart
    sealed = survey.sealed_bytes
    return {
        "image": survey.name,
        "state": survey.state,
        "vm": context and str(context.vm),
        "disk": context and str(context.disk),
        "generation": context and context.generation,
        "key_version": context and context.key_version,
        "label": survey.label or None,
        "level": survey.level,
        "disk_bytes": Bytes(survey.disk_bytes),
        "sealed_bytes": None if sealed is None else Bytes(sealed),
        "partitions": Partitions(
            list(map(plain_partition, survey.partitions))
        ),
        "classes": Records(
            {
                str(kind): {"ranges": total.ranges, "bytes": total.size}
                for kind, total in chart.totals.items()
            }
        ),
        "cell_bytes": Bytes(chart.cell_bytes),
        "cells": Records(
            [
                {**cell._asdict(), "kind": str(cell.kind)}
                for cell in chart.cells
            ]
        ),
        "ranges": Records(
            [
                {**item._asdict(), "kind": str(item.kind)}
                for item in chart.ranges
            ]
        ),
        "ranges_omitted": chart.omitted,
        "notes": Records(list(survey.notes)),
        "picture": None if target is None else str(target),
    }
