"""Pictures are legible, say nothing by colour alone, and parse."""

from __future__ import annotations

import io
import itertools
from uuid import UUID

import pytest
from lxml import etree
from PIL import Image

from vmsec.cli.picture import style
from vmsec.cli.picture.png import draw_png
from vmsec.cli.picture.scene import COLUMNS, MAX_CELLS, lay_out
from vmsec.cli.picture.shape import Box, Label, shorten, text_width
from vmsec.cli.picture.style import LOOKS, Colour, contrast, ink_on, printable
from vmsec.cli.picture.svg import NAMESPACE, draw_svg
from vmsec.cli.picture.text import TextSheet
from vmsec.crypto.context import SealContext
from vmsec.ondisk.extent import MetadataClass
from vmsec.sealing.model import PartitionReport
from vmsec.sealing.survey import KINDS, Range, Rest, draw, fill, zeros
from vmsec.sealing.surveyor import Survey

DISK = 1 << 26
HOSTILE = "a\0b\x1b[31m<script>&\udcff\n.img"


def make_survey(name: str = "/tmp/disk.img", parts: int = 1) -> Survey:
    """One with every kind there is, 16 KiB of each."""
    ranges = [
        Range(number << 20, 1 << 14, kind) for number, kind in enumerate(KINDS)
    ]
    chart = draw(fill(ranges, 0, DISK, zeros), DISK, MAX_CELLS)
    step = DISK // parts
    return Survey(
        name=name,
        state="plain",
        level="metadata",
        label="gpt",
        disk_bytes=DISK,
        sealed_bytes=len(MetadataClass) << 14,
        context=SealContext(UUID(int=1), UUID(int=2), 3, 4, bytes(16)),
        partitions=tuple(
            PartitionReport(
                number=n + 1,
                offset=n * step,
                length=step,
                type_id="",
                status="filesystem",
                filesystem="ext4",
                note=name,
            )
            for n in range(parts)
        ),
        chart=chart,
        notes=(name,),
    )


def test_every_kind_has_a_look() -> None:
    assert set(LOOKS) == set(KINDS)


def test_no_two_kinds_share_a_letter() -> None:
    letters = [look.letter for look in LOOKS.values()]
    assert len(set(letters)) == len(letters)
    assert all(letter.isascii() and len(letter) == 1 for letter in letters)


def test_what_has_no_letter_in_a_picture_differs_by_pattern_or_shade() -> None:
    shown = [(LOOKS[kind].colour, LOOKS[kind].pattern) for kind in Rest]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("colour", list(Colour))
def test_letters_are_legible_on_every_colour(colour: Colour) -> None:
    """WCAG 2.1, success criterion 1.4.3: at least 4.5 to 1."""
    assert contrast(ink_on(colour), colour) >= 4.5
    assert contrast(style.INK, Colour.DATA) >= 4.5


@pytest.mark.parametrize(
    "colour", sorted({look.colour for look in LOOKS.values()})
)
def test_the_edge_of_metadata_stands_out_on_paper(colour: Colour) -> None:
    """WCAG 2.1, success criterion 1.4.11: at least 3 to 1."""
    if any(
        look.colour is colour and isinstance(kind, MetadataClass)
        for kind, look in LOOKS.items()
    ):
        assert contrast(style.shaded(colour), style.PAPER) >= 3


def test_families_differ_in_more_than_hue() -> None:
    """Red and green look alike to many; their letters do not."""
    for one, other in itertools.combinations(MetadataClass, 2):
        assert LOOKS[one].letter != LOOKS[other].letter


def test_a_picture_shows_every_kind_and_its_bytes() -> None:
    scene = lay_out(make_survey())
    words = [s.text for s in scene.shapes if isinstance(s, Label)]
    for kind in KINDS:
        assert str(kind) in words
    assert words.count("16 KiB") == len(KINDS) - 1


def test_everything_is_inside_the_picture() -> None:
    scene = lay_out(make_survey(parts=40))
    for shape in scene.shapes:
        assert 0 <= shape.x <= scene.width
        assert 0 <= shape.y <= scene.height
        if isinstance(shape, Box):
            assert shape.x + shape.width <= scene.width
            assert shape.y + shape.height <= scene.height


def test_svg_of_a_hostile_name_parses_and_runs_nothing() -> None:
    root = etree.fromstring(draw_svg(lay_out(make_survey(HOSTILE))))
    assert root.tag == f"{{{NAMESPACE}}}svg"
    names = {str(element.tag).partition("}")[2] for element in root.iter()}
    assert "script" not in names
    words = "".join(map(str, root.itertext()))
    assert "<script>" in words
    assert "\x1b" not in words


def test_svg_has_words_for_who_cannot_see_it() -> None:
    root = etree.fromstring(draw_svg(lay_out(make_survey())))
    assert root.get("role") == "img"
    assert root.findtext(f"{{{NAMESPACE}}}title") == "Map of disk.img"
    assert "directory: 16 KiB" in (root.findtext(f"{{{NAMESPACE}}}desc") or "")


def test_svg_refers_to_nothing_outside() -> None:
    text = draw_svg(lay_out(make_survey())).decode()
    assert "href" not in text
    assert text.count("http") == 1  # the name of the format


@pytest.mark.parametrize("name", ["/tmp/disk.img", HOSTILE])
def test_png_is_a_picture_with_its_title(name: str) -> None:
    scene = lay_out(make_survey(name))
    with Image.open(io.BytesIO(draw_png(scene))) as picture:
        picture.load()
        assert picture.size == (1200, scene.height)
        assert picture.info["Title"] == scene.title
        colours = {c for _, c in picture.getcolors(1 << 20) or []}
    for look in LOOKS.values():
        red, green, blue = bytes.fromhex(look.colour[1:])
        assert (red, green, blue) in colours, look


def test_the_same_survey_makes_the_same_bytes() -> None:
    assert draw_png(lay_out(make_survey())) == draw_png(lay_out(make_survey()))
    assert draw_svg(lay_out(make_survey())) == draw_svg(lay_out(make_survey()))


def test_rows_of_the_picture_begin_at_round_offsets() -> None:
    chart = make_survey().chart
    row = chart.cell_bytes * COLUMNS
    assert row.bit_count() == 1


@pytest.mark.parametrize(
    ("width", "columns"), [("20", 8), ("50", 32), ("80", 64), ("400", 128)]
)
def test_text_fits_its_terminal(
    monkeypatch: pytest.MonkeyPatch, width: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    stream = io.StringIO()
    sheet = TextSheet(stream)
    assert sheet.columns == columns
    sheet.write(make_survey())
    assert "\x1b" not in stream.getvalue()


def test_text_on_a_narrow_encoding_is_replaced_not_refused() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    TextSheet(stream).write(make_survey(HOSTILE))
    stream.flush()
    assert b"\x1b" not in raw.getvalue()
    assert b"a?b?[31m<script>&??.img" in raw.getvalue()


def test_printable_leaves_names_alone() -> None:
    assert printable("dîsk 1.img") == "dîsk 1.img"


@pytest.mark.parametrize("width", [0, 10, 40, 100, 1000])
def test_what_is_shortened_fits(width: int) -> None:
    text = shorten("a partition with a long name", 13, width)
    assert text_width(text, 13) <= width
