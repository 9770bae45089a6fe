"""The few elements of SVG that the picture needs."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

FONT_SIZE = 11
CHAR_WIDTH = 0.605 * FONT_SIZE
"""Width of a character of a fixed-width font, in pixels."""
FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

# What XML 1.0 does not allow, escaped or not.
_FORBIDDEN = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')

Element = ElementTree.Element


def document(title: str, style: str) -> Element:
    """An SVG document with a white ground, and the title that a browser shows."""
    root = Element('svg', xmlns='http://www.w3.org/2000/svg', role='img')
    root.set('font-family', FONTS)
    root.set('font-size', str(FONT_SIZE))
    add(root, 'title', title)
    add(root, 'style', style)
    add(root, 'rect', width='100%', height='100%', fill='#ffffff')
    return root


def add(parent: Element, tag: str, content: str = '', **attributes: Any) -> Element:
    """Append an element: ``stroke_width=2`` becomes ``stroke-width="2"``, ``class_`` ``class``."""
    element = ElementTree.SubElement(parent, tag)
    for name, value in attributes.items():
        if value is not None:
            element.set(name.rstrip('_').replace('_', '-'), _plain(value))
    if content:
        element.text = clean(content)
    return element


def clean(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _FORBIDDEN.sub('\ufffd', text)


def shorten(text: str, characters: int) -> str:
    """Text with its end cut off if it is longer than that."""
    return text if len(text) <= characters else text[: max(characters - 1, 0)] + '…'


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Width of a text in pixels."""
    return len(text) * CHAR_WIDTH * size / FONT_SIZE


def text_colour(ground: str) -> str:
    """Black or white, whichever reads better on ``#rrggbb`` (relative luminance of WCAG 2)."""
    linear = []
    for start in (1, 3, 5):
        share = int(ground[start : start + 2], 16) / 255
        linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return '#ffffff' if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else '#000000'


def to_text(root: Element, width: float, height: float) -> str:
    """The document, of this size, as a file's contents."""
    size = _plain(width), _plain(height)
    root.attrib.update(width=size[0], height=size[1], viewBox=f'0 0 {size[0]} {size[1]}')
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.1f}'.removesuffix('.0')
    return clean(str(value))
