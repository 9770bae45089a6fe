"""Names of modules as columns: blocks beside each other, their layers in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    cells: list[Cell] = []
    open_cells: dict[int, Cell] = {}
    for row, parts in enumerate(columns):
        for column in range(MAX_COLUMNS):
            name = '.'.join(parts[: column + 1]) if column < len(parts) - 1 else None
            current = open_cells.get(column)
            if current is not None and current.name == name:
                open_cells[column] = Cell(column, current.text, current.name, current.first, row)
                continue
            if current is not None:
                cells.append(open_cells.pop(column))
            if name is not None:
                open_cells[column] = Cell(column, parts[column], name, row, row)
    cells.extend(open_cells.values())
    return sorted(cells, key=lambda cell: (cell.column, cell.first))
