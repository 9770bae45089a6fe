"""Where every group's vertical lane stands, and in which colour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mmprune.channels import ChannelGroup
from mmprune.report.drawing.rows import NO_GROUP, Row

# Distinct in hue and lightness, also to colour-blind eyes; after Okabe and Ito, and Paul Tol.
PALETTE = (
    '#0072b2',
    '#d55e00',
    '#009e73',
    '#882255',
    '#e69f00',
    '#56b4e9',
    '#cc79a7',
    '#999933',
    '#332288',
    '#44aa99',
)
PINNED = '#8a8a8a'
NEAR = 3
"""Groups so few rows apart get different colours."""
LONG = 5
"""Lanes over so many rows, or with several makers, stand right of the short ones."""


@dataclass(frozen=True)
class Lane:
    """The lane of one group.

    Attributes:
        group: Position of the group.
        column: Place from the left.
        colour: As ``#rrggbb``.
        makes: Rows that make the group's channels.
        reads: Rows that only read them.
        passes: Rows that read them and hand them on, as a norm does.
        is_shared: Whether several rows make them, as in a residual stream.
    """

    group: int
    column: int
    colour: str
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    passes: tuple[int, ...]
    is_shared: bool

    @property
    def first(self) -> int:
        """The first row."""
        return min((*self.makes, *self.reads, *self.passes))

    @property
    def last(self) -> int:
        """The last row."""
        return max((*self.makes, *self.reads, *self.passes))


def lanes_of(rows: Sequence[Row], groups: Sequence[ChannelGroup]) -> dict[int, Lane]:
    """The lane of every group that a row has a part in, by group, in order of the first row."""
    makes, reads, passes = (defaultdict[int, list[int]](list) for _ in range(3))
    for number, row in enumerate(rows):
        made = {run.group for run in row.makes} - {NO_GROUP}
        for group in made:
            (passes if row.passes else makes)[group].append(number)
        for group in row.groups - made:
            reads[group].append(number)
    spans = {}
    for group in sorted({*makes, *reads, *passes}):
        own = (*makes[group], *reads[group], *passes[group])
        spans[group] = min(own), max(own)
    shared = {group for group in spans if len(makes[group]) > 1}
    long = {g for g, (first, last) in spans.items() if g in shared or last - first >= LONG}
    columns = _columns({g: span for g, span in spans.items() if g not in long}, 0)
    after = max(columns.values(), default=-1) + 1
    columns.update(_columns({g: span for g, span in spans.items() if g in long}, after))
    colours = _colours(spans, groups)
    lanes = {
        group: Lane(
            group,
            columns[group],
            colours[group],
            tuple(makes[group]),
            tuple(reads[group]),
            tuple(passes[group]),
            group in shared,
        )
        for group in spans
    }
    return dict(sorted(lanes.items(), key=lambda item: spans[item[0]]))


def _columns(spans: dict[int, tuple[int, int]], left: int) -> dict[int, int]:
    """The first free place from ``left`` on for every lane, in order of the first row."""
    taken: list[int] = []
    columns = {}
    for group, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        free = [column for column, end in enumerate(taken) if end < first]
        if not free:
            free = [len(taken)]
            taken.append(last)
        taken[free[0]] = last
        columns[group] = left + free[0]
    return columns


def _colours(spans: dict[int, tuple[int, int]], groups: Sequence[ChannelGroup]) -> dict[int, str]:
    """The colour that neighbours have not, and that was used longest ago."""
    colours = {}
    age = dict.fromkeys(PALETTE, 0)
    for turn, (group, (first, last)) in enumerate(sorted(spans.items(), key=lambda s: s[1]), 1):
        if not groups[group].prunable:
            colours[group] = PINNED
            continue
        near = {
            colours[other]
            for other, (start, end) in spans.items()
            if other in colours and start - NEAR <= last and first <= end + NEAR
        }
        free = [colour for colour in PALETTE if colour not in near] or list(PALETTE)
        colours[group] = min(free, key=age.__getitem__)
        age[colours[group]] = turn
    return colours
