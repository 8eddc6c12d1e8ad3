"""Draw a scene as PNG, by Pillow and the font that comes with it."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from vmsec.cli.picture.shape import (
    DOT_STEP,
    HATCH_STEP,
    PATTERN_INK,
    Box,
)
from vmsec.cli.picture.style import PAPER

if TYPE_CHECKING:
    from vmsec.cli.picture.shape import Label, Scene

_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def draw_png(scene: Scene) -> bytes:
    """Return the picture as a PNG file, with its words as text chunks."""
    from PIL.PngImagePlugin import PngInfo

    picture = Image.new("RGB", (scene.width, scene.height), PAPER)
    canvas = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        if isinstance(shape, Box):
            _box(canvas, shape)
        else:
            _label(canvas, shape)
    words = PngInfo()
    words.add_itxt("Title", scene.title)
    words.add_itxt("Description", scene.description)
    target = io.BytesIO()
    picture.save(target, "PNG", optimize=True, pnginfo=words)
    return target.getvalue()


def _box(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    # Pillow counts the last pixel in.
    right, bottom = box.x + box.width - 1, box.y + box.height - 1
    if right < box.x or bottom < box.y:
        return
    place = (box.x, box.y, right, bottom)
    frame = box.frame or None
    canvas.rectangle(place, box.fill, frame, box.border)
    if box.pattern == "hatch":
        _hatch(canvas, place)
    elif box.pattern == "dots":
        _dots(canvas, place)


def _hatch(
    canvas: ImageDraw.ImageDraw, place: tuple[int, int, int, int]
) -> None:
    """Draw the diagonals x + y = n, cut off at the box."""
    left, top, right, bottom = place
    first = left + top - (left + top) % -HATCH_STEP
    for total in range(first, right + bottom + 1, HATCH_STEP):
        start = max(left, total - bottom)
        stop = min(right, total - top)
        canvas.line((start, total - start, stop, total - stop), PATTERN_INK)


def _dots(
    canvas: ImageDraw.ImageDraw, place: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = place
    canvas.point(
        [
            (x, y)
            for x in range(left - left % -DOT_STEP, right + 1, DOT_STEP)
            for y in range(top - top % -DOT_STEP, bottom + 1, DOT_STEP)
        ],
        PATTERN_INK,
    )


def _label(canvas: ImageDraw.ImageDraw, label: Label) -> None:
    canvas.text(
        (label.x, label.y),
        label.text,
        fill=label.fill,
        font=_font(label.size),
        anchor=_ANCHORS[label.anchor],
    )


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
