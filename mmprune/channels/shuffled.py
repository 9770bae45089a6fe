"""Find the channels that shuffles deal anew, and what is done with them between layers.

Where something happens to them of which no step is made, the shuffle is given up: its channels
then stay in the order of the full network, and live or die as the rules for ``view`` and
``channel_shuffle`` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmprune.channels.arrangement import Arrangement, Mixed, row_key
from mmprune.channels.labels import (
    EqualCounts,
    IntArray,
    LabelBook,
    Value,
    axes_of,
    inputs_by_group,
)
from mmprune.channels.steps import run_steps
from mmprune.channels.walk import Program, UnknownMoveError, Walk, parts_of, turned_dims
from mmprune.trace.trace_graph import Edge, TraceGraph, TraceNode

SMALLEST = 0.25
"""Some width between this share of the full one and all must be possible."""


def shuffles_of(graph: TraceGraph) -> frozenset[int]:
    """The nodes that shuffle blocks of channels, by the shapes that they go through.

    A dim is cut in two, the two change places, and are joined again.
    """
    return frozenset(
        node.id
        for node in graph.nodes
        if node.op == 'channel_shuffle' or (node.op == 'view' and _ends_shuffle(graph, node))
    )


def _ends_shuffle(graph: TraceGraph, node: TraceNode) -> bool:
    turned = _before(graph, node)
    if turned is None or turned.op not in ('transpose', 'permute'):
        return False
    cut = _before(graph, turned)
    if cut is None or cut.op != 'view':
        return False
    (start,) = (edge for edge in cut.inputs if edge is not None)
    first, blocks = graph.nodes[start[0]].shapes[start[1]], cut.shapes[0]
    dims = turned_dims(turned, len(blocks))
    moved = [place for place, dim in enumerate(dims) if place != dim]
    if len(moved) != 2 or moved[1] != moved[0] + 1:
        return False
    dim, size = moved[0], blocks[moved[0]] * blocks[moved[1]]
    joined = (*blocks[:dim], size, *blocks[dim + 2 :])
    return first == joined == node.shapes[0]


def _before(graph: TraceGraph, node: TraceNode) -> TraceNode | None:
    """What made a node's only input, copies left out."""
    while True:
        edges = [edge for edge in node.inputs if edge is not None]
        if len(edges) != 1:
            return None
        before = graph.nodes[edges[0][0]]
        if before.op != 'elementwise' or len(before.inputs) != 1:
            return before
        node = before


def arrange(
    graph: TraceGraph,
    book: LabelBook,
    values: Mapping[Edge, Value],
    tensors: Mapping[str, list[IntArray]],
    loose: frozenset[int],
    own_constraints: int,
) -> tuple[list[Arrangement], frozenset[int]]:
    """What the shuffles of a network do.

    Constraints that follow from a shuffle, and do not say all of it, are taken out of the book.

    Args:
        graph: The trace.
        book: Of the last pass.
        values: The labels of every tensor.
        tensors: The labels of every parameter and buffer, by name.
        loose: Nodes that end a shuffle.
        own_constraints: How many of the book's constraints come from operations.

    Returns:
        The arrangements, and the shuffles that must be given up.
    """
    owner_of, owners = _owners(book, values, loose)
    walk = Walk(graph, book, values, owner_of, len(set(owners.values())))
    for node, owner in owners.items():
        walk.programs[owner].reason = walk.programs[owner].reason or graph.nodes[node].where
    walk.run()
    found: dict[int, Arrangement] = {}
    spare: list[int] = []
    held, mixed = _held(tensors, owner_of)
    for owner, program in enumerate(walk.programs):
        try:
            if program.problem:
                raise UnknownMoveError(program.problem)
            if any((owner_of[pinned] == owner).any() for pinned, _ in book.pins):
                raise UnknownMoveError('some of its channels stay')
            arrangement = _finished(program, held.get(owner, []))
            spare += _implied(arrangement, book.constraints, own_constraints)
            found[owner] = arrangement
        except Exception as problem:  # its channels keep their order then
            program.problem = str(problem)
    failed = frozenset(node for node, owner in owners.items() if owner not in found)
    if not failed:
        book.constraints[:] = [c for i, c in enumerate(book.constraints) if i not in spare]
    arrangements = list(found.values())
    if arrangements:
        arrangements[0] = replace(arrangements[0], mixed=mixed)
    return arrangements, failed


def _owners(
    book: LabelBook, values: Mapping[Edge, Value], loose: frozenset[int]
) -> tuple[IntArray, dict[int, int]]:
    """Number of the shuffles that every label goes through (-1: none; last for labels below 0).

    Shuffles of labels that a constraint couples have one number. The second is that of each node.
    """
    rows = [constraint.rows.ravel() for constraint in book.constraints]
    shuffled = {}
    for node in sorted(loose):
        factors = values[node, 0].factors
        shuffled[node] = np.concatenate([np.zeros(0, np.int64), *(f.ravel() for f in factors)])
    rows += [labels for labels in shuffled.values() if len(labels)]
    rows = [row[row >= 0] for row in rows]
    size = len(book.canonical)
    first = np.concatenate([row[:-1] for row in rows] or [np.zeros(0, np.int64)])
    second = np.concatenate([row[1:] for row in rows] or [np.zeros(0, np.int64)])
    coupled = coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
    _, component = connected_components(coupled, directed=False)
    numbers: dict[int, int] = {}
    owners = {}
    for node, labels in shuffled.items():
        known = labels[labels >= 0]
        if len(known):
            owners[node] = numbers.setdefault(int(component[known[0]]), len(numbers))
    table = np.full(size + 1, -1)
    for root, number in numbers.items():
        table[:-1][component == root] = number
    return table, owners


def _held(
    tensors: Mapping[str, list[IntArray]], owner_of: IntArray
) -> tuple[dict[int, list[tuple[str, IntArray]]], tuple[Mixed, ...]]:
    """The label arrays of parameters and buffers that have shuffled channels, by whose they are.

    The second are the rows in which channels of several, or others, stand side by side.
    """
    found: dict[int, list[tuple[str, IntArray]]] = {}
    mixed: dict[bytes, Mixed] = {}
    for name, factors in tensors.items():
        for factor in factors:
            parts = parts_of(factor, owner_of)
            own = [(part.owner, part.factor) for part in parts or ()]
            if parts is None:  # of which no row is known
                owners = owner_of[np.maximum(factor, -1)]
                own = [(owner, factor) for owner in np.unique(owners[owners >= 0]).tolist()]
            for owner, labels in own:
                found.setdefault(owner, []).append((name, labels))
            if parts and not parts[0].is_whole:
                row = factor.ravel()
                ends = {end for part in parts for end in (part.start, part.end)}
                mixed[row_key(row)] = Mixed(row, tuple(sorted({0, *ends, row.size})))
    return found, tuple(mixed.values())


def _finished(program: Program, held: list[tuple[str, IntArray]]) -> Arrangement:
    """The arrangement of a program, if it says all of its channels.

    Raises:
        UnknownMoveError: It does not, or no smaller width is possible.
    """
    labels = np.concatenate([np.zeros(0, np.int64), *program.labels])
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *(f.ravel() for _, f in held)]))
    if not np.array_equal(np.sort(labels), used):
        raise UnknownMoveError('some of its channels are made by no layer, or by several')
    full = run_steps(program.steps, program.sizes)
    rows: dict[bytes, int] = {}
    for number in dict.fromkeys(number for number, _ in program.sites):
        if len(np.unique(full[number])) < len(full[number]):
            raise UnknownMoveError('a channel is read twice')
        first = rows.setdefault(row_key(labels[full[number]]), number)
        if first != number:  # the same tensor is cut for both
            program.add('alike', (), (first, number))
    for name, factor in held:
        if row_key(_row(factor)) not in rows:
            raise UnknownMoveError(f'{name} has them in an order that is not known')
    found = Arrangement(
        labels,
        tuple(program.sizes),
        tuple(program.steps),
        tuple(program.sites),
        rows,
        f'{program.reason} shuffles them',
    )
    widths = range(max(1, int(SMALLEST * found.most)), found.most)
    if all(
        found.dealt(step) is None for step in sorted(widths, key=lambda s: abs(s - found.most / 2))
    ):
        raise UnknownMoveError('no smaller width is possible')
    return found


def _row(factor: IntArray) -> IntArray:
    """The channels along a dim of a tensor; the inputs of a grouped convolution, group by group."""
    return (inputs_by_group(factor) if axes_of(factor) == (0, 1) else factor).ravel()


def _implied(arrangement: Arrangement, constraints: Sequence[EqualCounts], own: int) -> list[int]:
    """Which constraints on shuffled channels their arrangement stands for, without obeying them.

    A cut into blocks asks for as many channels of each block. Where a block is no whole kinds of
    channels, a smaller network has others in its blocks, and no more is asked than as many of
    each kind.

    Raises:
        UnknownMoveError: One that it does not obey comes from elsewhere.
    """
    size = 1 + max([int(arrangement.labels.max()), *(int(c.rows.max()) for c in constraints)])
    kinds = np.full(size, -1)
    kinds[arrangement.labels] = arrangement.kinds
    random = np.random.default_rng(0).random(len(arrangement.labels))
    alive = np.zeros((3, size), bool)
    for row, share in enumerate((0.35, 0.5, 0.7)):
        alive[row, arrangement.labels[arrangement.choose(random, share)]] = True
    spare = []
    for number, constraint in enumerate(constraints):
        rows = constraint.rows
        if kinds[rows].max() < 0:
            continue
        if rows.min() < 0 or kinds[rows].min() < 0:
            raise UnknownMoveError('a constraint couples them with other channels')
        counts = alive[:, rows].sum(axis=2)
        if (counts != counts[:, :1]).any() or not _are_whole(kinds, rows, arrangement.num_kinds):
            if number >= own:
                raise UnknownMoveError(constraint.reason)
            spare.append(number)
    return spare


def _are_whole(kinds: IntArray, rows: IntArray, count: int) -> bool:
    """Whether every row of channels has all channels of a kind, or none of them."""
    known = kinds[kinds >= 0]
    sizes = np.bincount(known, minlength=count)
    return all(
        set((np.bincount(kinds[row], minlength=count) / sizes).tolist()) <= {0, 1} for row in rows
    )
