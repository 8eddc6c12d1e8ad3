"""The few shapes that a scene is made of.

Units:
    Pixels, from the upper left corner; a label's ``y`` is its baseline.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle.

    ``frame`` is the colour of a border of ``border`` pixels drawn inside it;
    ``pattern`` is ``""``, ``"hatch"`` or ``"dots"``; ``tip`` is what a viewer
    shows of it when asked.
    """

    x: int
    y: int
    width: int
    height: int
    fill: str
    frame: str = ""
    border: int = 0
    pattern: str = ""
    tip: str = ""


class Label(NamedTuple):
    """A line of text; ``anchor`` is ``"start"``, ``"middle"`` or ``"end"``."""

    x: int
    y: int
    text: str
    size: int
    fill: str
    anchor: str = "start"


class Scene(NamedTuple):
    """A drawing: its size, its words for who cannot see it, its shapes."""

    width: int
    height: int
    title: str
    description: str
    shapes: tuple[Box | Label, ...]


HATCH_STEP, DOT_STEP, PATTERN_INK = 5, 4, "#6B7684"
"""Distances of the lines and dots of patterns, and their colour."""


def text_width(text: str, size: int) -> int:
    """Return about how wide a text is; sans-serif letters are half square."""
    return round(len(text) * size * 0.55)


def shorten(text: str, size: int, width: int) -> str:
    """Cut a text so that it fits, with an ellipsis; empty if nothing does."""
    if text_width(text, size) <= width:
        return text
    room = int(width / (size * 0.55)) - 3
    return f"{text[:room]}..." if room > 0 else ""


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines that fit."""
    return textwrap.wrap(text, max(int(width / (size * 0.55)), 1))
