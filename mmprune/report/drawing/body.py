"""The middle of the picture: a line per layer, and the lanes of the groups beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmprune.report.drawing.lanes import PINNED, Lane
from mmprune.report.drawing.marks import (
    Legend,
    bar,
    chip,
    chip_width,
    chips,
    chips_width,
)
from mmprune.report.drawing.rows import Row
from mmprune.report.drawing.svg import Element, add, shorten, text_width
from mmprune.report.drawing.tree import cells_of, split_names

ROW = 18
BAR = 110
LANE = 21
GAP = 12
HEAD = 24
"""Height of the line of headings."""
MAX_NAME, MAX_KIND = 38, 30


@dataclass(frozen=True)
class Columns:
    """Left sides of the columns, in pixels; ``axis`` is between the two bars."""

    tree: tuple[float, ...]
    name: float
    kind: float
    read_chips: float
    read_count: float
    axis: float
    make_count: float
    make_chips: float
    lanes: float
    end: float


def columns_of(rows: Sequence[Row], legend: Legend, left: float) -> Columns:
    """Place the columns so that everything fits."""
    split = split_names([row.name or '(root)' for row in rows])
    x, tree = left, []
    for column in range(max((len(parts) for parts in split), default=1) - 1):
        texts = [parts[column] for parts in split if column < len(parts) - 1]
        tree.append(x)
        x += max(text_width(text) for text in texts) + GAP
    name = x
    labels = [label_of(row, parts[-1]) for row, parts in zip(rows, split, strict=True)]
    x += max(text_width(label) for label in ['layer', *labels]) + GAP
    kind = x
    kinds = [shorten(row.kind, MAX_KIND) for row in rows]
    x += max(text_width(text) for text in ['type', *kinds]) + GAP
    read_chips = x
    x += max((chips_width(legend, row.reads) for row in rows), default=0.0)
    widest = max((width_of(row) for row in rows), default=0)
    count = max(text_width(str(widest)), text_width('reads')) + 6
    read_count = x + count
    axis = read_count + 6 + BAR + 8
    make_count = axis + 8 + BAR + 6
    make_chips = make_count + count
    chip_room = max((chips_width(legend, row.makes) for row in rows), default=0.0)
    lanes = make_chips + chip_room + GAP
    number = max((lane.column for lane in legend.lanes.values()), default=-1) + 1
    end = lanes + max(number * LANE, 120)
    return Columns(
        tuple(tree), name, kind, read_chips, read_count, axis, make_count, make_chips, lanes, end
    )


def width_of(row: Row) -> int:
    """The larger number of channels of a row."""
    return max(sum(run.count for run in row.reads), sum(run.count for run in row.makes))


def label_of(row: Row, name: str) -> str:
    """Name of the layer, and of the norm that is drawn with it."""
    return shorten(f'{name} + {row.norm}' if row.norm else name, MAX_NAME)


def draw_body(
    root: Element, rows: Sequence[Row], legend: Legend, columns: Columns, top: float
) -> float:
    """Draw all rows from ``top`` on; returns the lower edge."""
    _headings(root, columns, top)
    top += HEAD
    split = split_names([row.name or '(root)' for row in rows])
    makes = [sum(run.count for run in row.makes) for row in rows]
    scale = BAR / max([*makes, 1])
    _ground(root, rows, split, columns, top)
    middles = [top + ROW * (number + 0.5) for number in range(len(rows))]
    for number, (row, parts) in enumerate(zip(rows, split, strict=True)):
        _row(root, row, parts[-1], legend, columns, middles[number], scale)
    for lane in legend.lanes.values():
        _lane(root, lane, legend, columns.lanes, middles)
    return top + ROW * len(rows)


def _headings(root: Element, columns: Columns, top: float) -> None:
    y = top + 14
    style: dict[str, Any] = dict(y=y, font_size=10, fill='#555555')
    for text, x in (
        *(('module', x) for x in columns.tree[:1]),
        ('layer', columns.name), ('type', columns.kind), ('▸ out', columns.axis + 4),
        ('makes', columns.make_count), ('groups', columns.lanes),
    ):  # fmt: skip
        add(root, 'text', text, x=x, **style)
    for text, x in (('reads', columns.read_count), ('in ◂', columns.axis - 4)):
        add(root, 'text', text, x=x, text_anchor='end', **style)


def _ground(
    root: Element,
    rows: Sequence[Row],
    split: Sequence[tuple[str, ...]],
    columns: Columns,
    top: float,
) -> None:
    """Bands and names of the modules, lines between them, and where operations are unknown."""
    left = columns.tree[0] if columns.tree else columns.name
    width = columns.end - left
    for number, row in enumerate(rows):
        if row.is_unknown:
            y = top + ROW * number
            add(root, 'rect', x=left, y=y, width=width, height=ROW, fill='#fde7e4')
    for cell in cells_of(split):
        x, y = columns.tree[cell.column], top + ROW * cell.first
        element = add(root, 'g')
        add(element, 'title', cell.name)
        shade = '#f2f4f7' if cell.first and cell.column == len(columns.tree) - 1 else '#f7f8fa'
        following = (*columns.tree, columns.name)[cell.column + 1]
        add(
            element,
            'rect',
            x=x - 4,
            y=y + 1,
            width=following - x - 2,
            height=ROW * (cell.last - cell.first + 1) - 2,
            rx=3,
            fill=shade,
            stroke='#d5dae2',
        )
        add(element, 'text', cell.text, x=x, y=y + ROW / 2 + 4, fill='#333333')
    for number in range(1, len(rows)):
        if split[number][:-1] != split[number - 1][:-1]:
            y = top + ROW * number
            start = columns.name - 4
            add(root, 'line', x1=start, y1=y, x2=columns.end, y2=y, stroke='#d5dae2')


def _row(
    root: Element,
    row: Row,
    leaf: str,
    legend: Legend,
    columns: Columns,
    y: float,
    scale: float,
) -> None:
    element = add(root, 'g')
    add(element, 'title', _title(row))
    style = 'italic' if row.kind.startswith('parameter') else None
    name = label_of(row, leaf)
    add(element, 'text', name, x=columns.name, y=y + 4, font_style=style, fill='#111111')
    kind = shorten(row.kind, MAX_KIND)
    colour = '#b3261e' if row.is_unknown else '#555555'
    add(element, 'text', kind, x=columns.kind, y=y + 4, fill=colour)
    ends = [columns.lanes + LANE * (legend.lanes[group].column + 0.5) for group in row.groups]
    if ends:
        start = columns.make_chips + chips_width(legend, row.makes)
        add(root, 'line', x1=start, y1=y, x2=max(ends), y2=y, stroke='#dddddd')
    if row.reads:
        count = sum(run.count for run in row.reads)
        chips(root, legend, row.reads, columns.read_chips, y)
        at: dict[str, Any] = dict(x=columns.read_count, y=y + 4, text_anchor='end', fill='#333333')
        add(root, 'text', str(count), **at)
        bar(root, legend, row.reads, columns.axis - 3, y, -scale, BAR)
    if row.makes:
        count = sum(run.count for run in row.makes)
        bar(root, legend, row.makes, columns.axis + 3, y, scale, BAR)
        add(root, 'text', str(count), x=columns.make_count, y=y + 4, fill='#333333')
        chips(root, legend, row.makes, columns.make_chips, y)


def _title(row: Row) -> str:
    norm = f' and {row.norm}' if row.norm else ''
    reads = sum(run.count for run in row.reads)
    makes = sum(run.count for run in row.makes)
    sizes = f'\n{reads} channels in, {makes} out' if reads or makes else ''
    return f'{row.name or "the root module"}{norm}\n{row.kind}{sizes}'


def _lane(root: Element, lane: Lane, legend: Legend, left: float, middles: Sequence[float]) -> None:
    """A line along the rows; dots where the channels are made, rings where they are read."""
    x = left + LANE * (lane.column + 0.5)
    element = legend.mark(root, lane.group)
    if lane.last > lane.first:
        add(
            element,
            'line',
            x1=x,
            y1=middles[lane.first],
            x2=x,
            y2=middles[lane.last],
            stroke=lane.colour,
            stroke_width=6 if lane.is_shared else 2.5,
            stroke_dasharray='4 3' if lane.colour == PINNED else None,
        )
    dot: dict[str, Any] = dict(fill=lane.colour, stroke='#ffffff')
    for number in lane.passes:
        add(element, 'circle', cx=x, cy=middles[number], r=3, stroke_width=1, **dot)
    ring: dict[str, Any] = dict(fill='#ffffff', stroke=lane.colour, stroke_width=2)
    for number in lane.reads:
        add(element, 'circle', cx=x, cy=middles[number], r=4, **ring)
    for number in lane.makes:
        add(element, 'circle', cx=x, cy=middles[number], r=5, stroke_width=1.5, **dot)
    width = chip_width(legend.number(lane.group))
    chip(root, legend, lane.group, x - width / 2, middles[lane.first])
