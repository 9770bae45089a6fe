"""The whole picture: what is prunable, how to read it, the layers, and a table of the groups."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from mmprune.channels import ChannelGroup
from mmprune.report.drawing.body import columns_of, draw_body
from mmprune.report.drawing.lanes import PINNED, lanes_of
from mmprune.report.drawing.marks import HATCH, Legend, chip, chip_width, constraint_text, hatch
from mmprune.report.drawing.rows import Row
from mmprune.report.drawing.svg import (
    CHAR_WIDTH,
    Element,
    add,
    document,
    shorten,
    text_width,
    to_text,
)

MARGIN = 20
LINE = 17
STATE_WIDTH = 90 * CHAR_WIDTH
"""Room for the reasons in the table; what is longer goes on in the next line."""
PRUNABLE, STAYS = '#2e7d5b', '#c9ced6'
ALARM = '#b3261e'


@dataclass(frozen=True)
class Share:
    """How much of something is prunable: a bar at the top of the picture."""

    name: str
    share: float
    text: str


@dataclass(frozen=True)
class Picture:
    """What the picture shows.

    Attributes:
        title: Its first line.
        facts: Lines below it.
        alarms: Lines in red: what could not be followed.
        shares: Bars.
        rows: Layers in order of execution.
        groups: The channel groups that the rows number.
    """

    title: str
    facts: Sequence[str]
    alarms: Sequence[str]
    shares: Sequence[Share]
    rows: Sequence[Row]
    groups: Sequence[ChannelGroup]


def draw(picture: Picture) -> str:
    """The picture as the text of an SVG file, which needs nothing else to be shown."""
    legend = Legend(picture.groups, lanes_of(picture.rows, picture.groups))
    columns = columns_of(picture.rows, legend, MARGIN + 4)
    width = max(columns.end + MARGIN, _state_column(legend) + STATE_WIDTH + MARGIN)
    root = document(f'{picture.title}: channel groups', legend.style())
    hatch(root)
    head = _head(root, picture, width)
    body = draw_body(root, picture.rows, legend, columns, head)
    bottom = _table(root, legend, body + 24)
    return to_text(root, width, bottom + MARGIN)


def _head(root: Element, picture: Picture, width: float) -> float:
    """Draw what stands above the layers; returns the lower edge."""
    y = MARGIN + 10.0
    add(root, 'text', picture.title, x=MARGIN, y=y, font_size=16, font_weight='bold')
    y += 20
    room = int((width - 2 * MARGIN) / CHAR_WIDTH)
    for line in picture.facts:
        add(root, 'text', shorten(line, room), x=MARGIN, y=y, fill='#333333')
        y += LINE
    for line in picture.alarms:
        element = add(root, 'text', shorten(line, room), x=MARGIN, y=y, fill=ALARM)
        add(element, 'title', line)
        y += LINE
    left = MARGIN + max((text_width(share.name) for share in picture.shares), default=0) + 10
    for share in picture.shares:
        add(root, 'text', share.name, x=MARGIN, y=y, fill='#333333')
        add(root, 'rect', x=left, y=y - 9, width=200, height=11, fill=STAYS)
        add(root, 'rect', x=left, y=y - 9, width=200 * share.share, height=11, fill=PRUNABLE)
        add(root, 'text', share.text, x=left + 208, y=y, fill='#333333')
        y += LINE
    _key(root, y + 4)
    return y + 26


def _key(root: Element, y: float) -> None:
    """How to read the marks."""
    x = float(MARGIN)
    blue = '#0072b2'

    def say(text: str) -> None:
        nonlocal x
        add(root, 'text', text, x=x, y=y + 4, font_size=10, fill='#333333')
        x += text_width(text, 10) + 18

    add(root, 'rect', x=x, y=y - 6, width=18, height=13, rx=3, fill=blue)
    numeral = dict(text_anchor='middle', font_size=9, font_weight='bold', fill='#ffffff')
    add(root, 'text', '7', x=x + 9, y=y + 3.2, **numeral)
    x += 23
    say('channel group')
    add(root, 'circle', cx=x + 5, cy=y, r=5, fill=blue)
    x += 14
    say('made here')
    add(root, 'circle', cx=x + 5, cy=y, r=4, fill='#ffffff', stroke=blue, stroke_width=2)
    x += 14
    say('read here')
    add(root, 'circle', cx=x + 4, cy=y, r=3, fill=blue)
    x += 12
    say('passed on')
    add(root, 'line', x1=x, y1=y, x2=x + 22, y2=y, stroke=blue, stroke_width=6)
    x += 27
    say('several layers make it (residual)')
    add(root, 'rect', x=x, y=y - 5, width=22, height=9, fill=PINNED)
    add(root, 'rect', x=x, y=y - 5, width=22, height=9, fill=f'url(#{HATCH})')
    x += 27
    say('pinned: point at it for the reason')


def _name_column(legend: Legend) -> float:
    numbers = [legend.number(index) for index in range(len(legend.groups))]
    return MARGIN + max(map(chip_width, numbers), default=0) + 8


def _state_column(legend: Legend) -> float:
    longest = max((text_width(group.space_id) for group in legend.groups), default=0)
    return _name_column(legend) + max(longest, 40) + 230


def _state(group: ChannelGroup) -> list[str]:
    """Whether a group is prunable, its constraints, or why not; in lines that fit."""
    constraints = dict.fromkeys(map(constraint_text, group.constraints))
    text = f'no: {group.reason}' if group.reason else '; '.join(['yes', *constraints])
    return textwrap.wrap(text, int(STATE_WIDTH / CHAR_WIDTH)) or ['']


def _table(root: Element, legend: Legend, top: float) -> float:
    """A line per group: number, name, channels, layers, and why it is pinned or constrained.

    Returns the lower edge.
    """
    name, state = _name_column(legend), _state_column(legend)
    channels, made, read = state - 160, state - 90, state - 20
    style = dict(y=top, font_size=10, fill='#555555')
    add(root, 'text', 'group', x=name, **style)
    for text, x in (('channels', channels), ('made by', made), ('read by', read)):
        add(root, 'text', text, x=x, text_anchor='end', **style)
    add(root, 'text', 'prunable, or why not', x=state, **style)
    y = top
    for index, group in enumerate(legend.groups):
        y += LINE
        chip(root, legend, index, MARGIN, y - 4)
        element = legend.mark(root, index)
        add(element, 'text', group.space_id, x=name, y=y, fill='#111111')
        for number, x in (
            (group.num_channels, channels),
            (len(group.layers), made),
            (len(group.consumers), read),
        ):
            add(element, 'text', str(number), x=x, y=y, text_anchor='end', fill='#333333')
        colour = '#7a4b00' if group.reason else '#333333'
        lines = _state(group)
        for number, line in enumerate(lines):
            add(element, 'text', line, x=state, y=y + LINE * number, fill=colour)
        y += LINE * (len(lines) - 1)
    return y + LINE
