"""Marks that several parts of the picture share: chips with a group's number, bars, titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmprune.channels import ChannelGroup, EqualBlocks
from mmprune.errors import listed
from mmprune.report.drawing.lanes import PINNED, Lane
from mmprune.report.drawing.rows import NO_GROUP, Run
from mmprune.report.drawing.svg import Element, add, text_colour, text_width

CHIP_HEIGHT = 13
CHIP_GAP = 2
MAX_CHIPS = 3
NO_COLOUR = '#d9d9d9'
"""Of channels that belong to no group."""
HATCH = 'hatch'
"""Pattern over bars of pinned groups."""


@dataclass(frozen=True)
class Legend:
    """Number, colour and description of every group, wherever it is drawn."""

    groups: Sequence[ChannelGroup]
    lanes: Mapping[int, Lane]

    def number(self, group: int) -> str:
        """The number that stands on the group's chips."""
        return str(group + 1)

    def colour(self, group: int) -> str:
        """As ``#rrggbb``."""
        if group == NO_GROUP:
            return NO_COLOUR
        return self.lanes[group].colour if group in self.lanes else PINNED

    def is_pinned(self, group: int) -> bool:
        """Whether nothing of it can be removed."""
        return group == NO_GROUP or not self.groups[group].prunable

    def title(self, group: int, is_short: bool = False) -> str:
        """What is shown when the pointer rests on the group."""
        if group == NO_GROUP:
            return 'channels of no group: they always stay'
        found = self.groups[group]
        lines = [
            f'group {self.number(group)}: {found.space_id}, {found.num_channels} channels',
            f'pinned: {found.reason}' if found.reason else 'prunable',
        ]
        if not is_short:
            lines += map(constraint_text, found.constraints)
            for what, layers in (('made', found.layers), ('read', found.consumers)):
                lines.append(f'{what} by {listed(layers, 12) or "no layer"}')
        return '\n'.join(lines)

    def mark(self, parent: Element, group: int, is_short: bool = False) -> Element:
        """A <g> of one group, which lights up with all others of it; with its title."""
        kind = 'g' if group == NO_GROUP else f'g c{group}'
        element = add(parent, 'g', class_=kind)
        add(element, 'title', self.title(group, is_short))
        return element

    def style(self) -> str:
        """Rules that fade everything else while the pointer rests on a group."""
        return '\n'.join(
            f'svg:has(.c{group}:hover) .g:not(.c{group}){{opacity:.12}}' for group in self.lanes
        )


def constraint_text(constraint: EqualBlocks) -> str:
    """A constraint in one line."""
    blocks, size = constraint.blocks.shape
    return f'equally many in {blocks} blocks of {size}: {constraint.reason}'


def chip_width(number: str) -> float:
    """Width of a chip with this number on it."""
    return max(18.0, text_width(number, 9) + 8)


def chip(parent: Element, legend: Legend, group: int, x: float, y: float) -> None:
    """A group's number on its colour; ``x`` is the left side, ``y`` the middle."""
    number = legend.number(group) if group != NO_GROUP else '-'
    width, colour = chip_width(number), legend.colour(group)
    element = legend.mark(parent, group, is_short=True)
    top = y - CHIP_HEIGHT / 2
    add(element, 'rect', x=x, y=top, width=width, height=CHIP_HEIGHT, rx=3, fill=colour)
    add(
        element,
        'text',
        number,
        x=x + width / 2,
        y=y + 3.2,
        text_anchor='middle',
        font_size=9,
        font_weight='bold',
        fill=text_colour(colour),
    )


def chips_of(runs: Sequence[Run]) -> tuple[list[int], int]:
    """The groups that get a chip, each once, and how many more there are."""
    groups = list(dict.fromkeys(run.group for run in runs))
    return groups[:MAX_CHIPS], max(0, len(groups) - MAX_CHIPS)


def chips_width(legend: Legend, runs: Sequence[Run]) -> float:
    """Width of the chips of some runs."""
    groups, rest = chips_of(runs)
    width = sum(chip_width(legend.number(group)) + CHIP_GAP for group in groups)
    return width + (text_width(f'+{rest}', 9) + CHIP_GAP if rest else 0)


def chips(parent: Element, legend: Legend, runs: Sequence[Run], x: float, y: float) -> None:
    """The chips of some runs, from left to right."""
    groups, rest = chips_of(runs)
    for group in groups:
        chip(parent, legend, group, x, y)
        x += chip_width(legend.number(group)) + CHIP_GAP
    if rest:
        add(parent, 'text', f'+{rest}', x=x, y=y + 3.2, font_size=9, fill='#555555')


def bar(
    parent: Element,
    legend: Legend,
    runs: Sequence[Run],
    x: float,
    y: float,
    scale: float,
    limit: float,
    height: float = 9,
) -> None:
    """Channels as lengths from ``x`` on, ``scale`` pixels each; to the left if negative.

    What is longer than ``limit`` pixels ends in a point.
    """
    total = sum(run.count for run in runs)
    direction = -1 if scale < 0 else 1
    length = min(max(abs(scale) * total, 2.0), limit)
    is_cut = abs(scale) * total > limit
    start = x
    for run in runs:
        size = length * run.count / total
        left = start if direction > 0 else start - size
        element = legend.mark(parent, run.group, is_short=True)
        place: dict[str, Any] = dict(x=left, y=y - height / 2, width=size, height=height)
        add(element, 'rect', fill=legend.colour(run.group), **place)
        if legend.is_pinned(run.group):
            add(element, 'rect', fill=f'url(#{HATCH})', **place)
        start += direction * size
    if is_cut:
        end = start + direction * 6
        points = f'{start:.1f},{y - height / 2} {end:.1f},{y} {start:.1f},{y + height / 2}'
        add(parent, 'polygon', points=points, fill=legend.colour(runs[-1].group))


def hatch(root: Element) -> None:
    """Define the pattern of pinned bars."""
    defs = add(root, 'defs')
    pattern = add(
        defs,
        'pattern',
        id=HATCH,
        width=4,
        height=4,
        patternUnits='userSpaceOnUse',
        patternTransform='rotate(45)',
    )
    add(pattern, 'line', x1=0, y1=0, x2=0, y2=4, stroke='#ffffff', stroke_width=2)
