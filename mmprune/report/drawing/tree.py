"""Names of modules as columns: blocks beside each other, their layers in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

MAX_COLUMNS = 3
MIN_ROWS = 3
"""Modules with fewer rows have no column, unless they are numbered blocks."""


@dataclass
class _Node:
    rows: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A module in a column of the tree, and the rows that are in it."""

    column: int
    text: str
    name: str
    first: int
    last: int


def split_names(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns of every name, its last part (the layer) included.

    A module of one child, and a list of numbered modules, have no column of their own, so
    ``backbone.layer1.0.conv1`` becomes ``backbone``, ``layer1.0``, ``conv1``.
    """
    root = _Node()
    for name in names:
        node = root
        node.rows += 1
        for part in name.split('.'):
            node = node.children.setdefault(part, _Node())
            node.rows += 1
    return [_columns(root, name.split('.')) for name in names]


def _columns(root: _Node, parts: Sequence[str]) -> tuple[str, ...]:
    columns: list[str] = []
    label, node = '', root
    for part in parts:
        if label and _has_column(label, node) and len(columns) < MAX_COLUMNS:
            columns.append(label)
            label = ''
        label = f'{label}.{part}' if label else part
        node = node.children[part]
    return (*columns, label)


def _has_column(label: str, node: _Node) -> bool:
    if node.rows == 1:
        return False
    if label[-1].isdigit():
        return True
    numbered = all(name.isdigit() for name in node.children)
    return node.rows >= MIN_ROWS and len(node.children) > 1 and not numbered


def cells_of(columns: Sequence[tuple[str, ...]]) -> list[Cell]:
    """The cells of all columns but the last: neighbouring rows with one beginning."""
    cells = []
    for column in range(MAX_COLUMNS):
        names = ('.'.join(parts[: column + 1]) * (column < len(parts) - 1) for parts in columns)
        for name, run in groupby(enumerate(names), key=lambda numbered: numbered[1]):
            rows = [row for row, _ in run]
            if name:
                cells.append(Cell(column, columns[rows[0]][column], name, rows[0], rows[-1]))
    return cells
