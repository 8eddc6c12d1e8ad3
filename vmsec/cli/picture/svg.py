"""Draw a scene as SVG 1.1, by the standard library.

The picture is self-contained: no script, no style sheet, no font and no
address of anywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from vmsec.cli.picture.shape import (
    DOT_STEP,
    HATCH_STEP,
    PATTERN_INK,
    Box,
    Label,
)

if TYPE_CHECKING:
    from vmsec.cli.picture.shape import Scene

NAMESPACE = "http://www.w3.org/2000/svg"
_FONT = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"


def draw_svg(scene: Scene) -> bytes:
    """Return the picture as an SVG file in UTF-8."""
    root = Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "width": str(scene.width),
            "height": str(scene.height),
            "viewBox": f"0 0 {scene.width} {scene.height}",
            "role": "img",
            "font-family": _FONT,
        },
    )
    SubElement(root, "title").text = scene.title
    SubElement(root, "desc").text = scene.description
    _define_patterns(SubElement(root, "defs"))
    for shape in scene.shapes:
        if isinstance(shape, Box):
            _box(root, shape)
        else:
            _label(root, shape)
    picture: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return picture + b"\n"


def _define_patterns(parent: Element) -> None:
    hatch = _pattern(parent, "hatch", HATCH_STEP)
    hatch.set("patternTransform", "rotate(45)")
    SubElement(
        hatch,
        "rect",
        {"width": "1.2", "height": str(HATCH_STEP), "fill": PATTERN_INK},
    )
    dots = _pattern(parent, "dots", DOT_STEP)
    SubElement(
        dots, "rect", {"width": "1", "height": "1", "fill": PATTERN_INK}
    )


def _pattern(parent: Element, name: str, step: int) -> Element:
    return SubElement(
        parent,
        "pattern",
        {
            "id": name,
            "patternUnits": "userSpaceOnUse",
            "width": str(step),
            "height": str(step),
        },
    )


def _box(parent: Element, box: Box) -> None:
    # A border is drawn inside: SVG would draw half of it outside.
    inset = box.border / 2
    place = {
        "x": f"{box.x + inset:g}",
        "y": f"{box.y + inset:g}",
        "width": f"{box.width - box.border:g}",
        "height": f"{box.height - box.border:g}",
    }
    look = {"fill": box.fill}
    if box.border:
        look |= {"stroke": box.frame, "stroke-width": str(box.border)}
    element = SubElement(parent, "rect", place | look)
    if box.tip:
        SubElement(element, "title").text = box.tip
    if box.pattern:
        SubElement(parent, "rect", place | {"fill": f"url(#{box.pattern})"})


def _label(parent: Element, label: Label) -> None:
    place = {"x": str(label.x), "y": str(label.y)}
    look = {"font-size": str(label.size), "fill": label.fill}
    if label.anchor != "start":
        look["text-anchor"] = label.anchor
    SubElement(parent, "text", place | look).text = label.text
