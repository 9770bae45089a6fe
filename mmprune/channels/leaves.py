"""The labels that the dims of every parameter begin with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmprune.channels.labels import IntArray, axes_of, squeeze_constant
from mmprune.trace.expressions import Expression
from mmprune.trace.trace_graph import TraceGraph

MAKE_DIMS = frozenset({'filled', 'expand', 'repeat', 'pad'})
"""Operations that make dims along which everything is the same."""


def united(labels: IntArray, canonical: IntArray) -> IntArray:
    """What stands for ``labels`` after unions; those below 0 stay."""
    return np.where(labels < 0, labels, canonical[labels])


class Leaves:
    """The label ranges of the dims of every parameter."""

    def __init__(self, graph: TraceGraph) -> None:
        self.shapes = dict(graph.parameters)
        self.groups = _weight_groups(graph)
        self.weights = graph.made_of_parameters()
        self.offsets: dict[str, list[tuple[tuple[int, ...], int]]] = {}
        self.num_labels = 0
        in_buffers: list[tuple[int, int]] = []
        for name, shape in self.shapes.items():
            self.offsets[name] = []
            start = self.num_labels
            for dim, size in enumerate(shape):
                if size > 1:
                    self.offsets[name].append(((dim,), self.num_labels))
                    self.num_labels += size * (self.groups.get(name, 1) if dim == 1 else 1)
            if name in graph.buffers:
                in_buffers.append((start, self.num_labels))
        self.widths: dict[tuple[int, int, int], tuple[Expression, int, int]] = {}
        for key, size, expression in _new_dims(graph):
            if key in self.widths:
                continue  # of a later road, through the same operation
            self.widths[key] = (expression, self.num_labels, self.num_labels + size)
            in_buffers.append((self.num_labels, self.num_labels + size))
            self.num_labels += size
        self.of_parameters = np.ones(self.num_labels, bool)
        for start, stop in in_buffers:
            self.of_parameters[start:stop] = False

    def widths_of(
        self, canonical: IntArray
    ) -> dict[tuple[int, int, int], tuple[Expression, IntArray]]:
        """The numbers that new dims were given, and labels for them, united ones put in."""
        return {key: (own, canonical[a:b]) for key, (own, a, b) in self.widths.items()}

    def of_buffers(self, canonical: IntArray) -> IntArray:
        """Which labels, (num_labels,) bool, no parameter has; empty if there are none."""
        if self.of_parameters.all():
            return np.zeros(0, bool)
        has_parameter = np.zeros(self.num_labels, bool)
        has_parameter[canonical[self.of_parameters]] = True
        return ~has_parameter[canonical]

    def factors(self, name: str, canonical: IntArray, squeeze: bool = True) -> list[IntArray]:
        """The label arrays of a parameter, one per dim, united labels put in."""
        shape, groups = self.shapes[name], self.groups.get(name, 1)
        factors = []
        for (dim,), offset in self.offsets[name]:
            rank_shape = [1] * len(shape)
            rank_shape[dim] = shape[dim]
            if dim == 1 and groups > 1:
                rows = canonical[offset : offset + shape[1] * groups].reshape(groups, -1)
                rank_shape[0] = shape[0]
                factor = np.repeat(rows, shape[0] // groups, axis=0).reshape(rank_shape)
            else:
                factor = canonical[offset : offset + shape[dim]].reshape(rank_shape)
            if squeeze:
                factor = squeeze_constant(factor)
            if axes_of(factor):
                factors.append(factor)
        return factors


def _new_dims(graph: TraceGraph) -> Iterator[tuple[tuple[int, int, int], int, Expression]]:
    """Place, size and number of every dim, or part, that an operation has made by a number."""
    for reading in graph.readings:
        node = graph.nodes[reading.edge[0]]
        if node.op not in MAKE_DIMS or isinstance(reading.expression, int | None):
            continue
        source = node.inputs[0]
        before = () if source is None else graph.nodes[source[0]].shapes[source[1]]
        place = reading.dim - len(node.shapes[0]) + len(before)
        if node.op in ('filled', 'pad', 'repeat') or place < 0 or before[place] == 1:
            where = (node.id, reading.dim, reading.start)
            yield where, reading.stop - reading.start, reading.expression


def _weight_groups(graph: TraceGraph) -> dict[str, int]:
    """Weights of grouped convolutions, in which every block of outputs has its own inputs.

    The weight is looked for behind operations that keep its shape (cast, standardisation).
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op != 'conv' or node.attrs['groups'] == 1 or node.inputs[1] is None:
            continue
        start = graph.nodes[node.inputs[1][0]]
        weight_shape = start.shapes[node.inputs[1][1]]
        if weight_shape[1] == 1:
            continue
        pending, seen = [start], {start.id}
        while pending:
            current = pending.pop()
            if current.op == 'parameter' and current.shapes[0] == weight_shape:
                found[current.attrs['name']] = node.attrs['groups']
            for edge in current.inputs:
                if edge is not None and edge[0] not in seen:
                    parent = graph.nodes[edge[0]]
                    if parent.shapes[edge[1]] == weight_shape:
                        seen.add(parent.id)
                        pending.append(parent)
    return found
