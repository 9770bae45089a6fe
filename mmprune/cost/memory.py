"""Memory traffic and activation peak of a traced forward pass, in closed form.

Both are about an inference pass of the traced operations one by one, without fusion, at the
shape of the demo input. The sizes of all tensors follow from the labels that they carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import Value
from mmprune.channels.propagate import Labelling, Wishes
from mmprune.channels.values import values_at_rest
from mmprune.cost.terms import Term, volume
from mmprune.trace.trace_graph import Edge, TraceGraph, TraceNode

LEAVES = frozenset({'parameter', 'input'})
VIEWS = frozenset(
    {
        'view', 'expand', 'transpose', 'permute', 'split', 'unbind', 'select', 'slice',
        'as_strided', 'view_as_complex', 'view_as_real',
    }
)  # fmt: skip
"""Operations whose outputs are the memory of their input."""
VIEW_SOURCES = ('AliasBackward', 'DetachBackward')
"""Autograd nodes that are read as element-wise operations and are views too."""


@dataclass(frozen=True)
class Work:
    """What one operation reads and writes.

    Attributes:
        module: Dotted name of the innermost module in which it runs.
        op: The operation, in mmprune's words.
        tensors: A term in bytes for every tensor that it reads or writes.
    """

    module: str
    op: str
    tensors: tuple[Term, ...]


@dataclass(frozen=True)
class Memory:
    """What the operations of a forward pass move and hold.

    Attributes:
        work: The operations that are no views, in order of execution.
        activations: A term in bytes for every tensor that an operation makes, and for every
            input of the network. Views, and what is computed in place, are the tensor that
            they are made of.
        births: The step (number in ``work``) that makes each of them.
        deaths: The last step that reads each of them.
    """

    work: tuple[Work, ...]
    activations: tuple[Term, ...]
    births: tuple[int, ...]
    deaths: tuple[int, ...]

    def made(self, alive: BoolArray) -> int:
        """Bytes of all activations together, about what training holds for the backward pass."""
        return sum(term.value(alive) for term in self.activations)

    def traffic(self, alive: BoolArray) -> int:
        """Bytes read and written by all layers together.

        Every operation reads each of its inputs (activations, parameters, running statistics)
        once, and writes each of its outputs that is read later once. Views move nothing, and
        a tensor that is broadcast is read as what it was expanded from. What is a copy in the
        full network counts as one in every subnet (with a single head left, some become
        views). Constants that a forward makes on the way (masks, indices) are not counted.
        """
        return sum(term.value(alive) for work in self.work for term in work.tensors)

    def peak(self, alive: BoolArray) -> int:
        """Bytes of activations that are held at once, at most.

        While an operation runs, its inputs and outputs are held, and whatever a later one
        reads. The network's inputs are held throughout, its outputs until the end; the
        parameters are not counted, nor is the working memory of a kernel. A tensor is
        freed after its last use, also where a name in a forward holds it for longer. In
        place are modules with ``inplace=True`` and writes into slices; an operator such as
        ``x += y`` counts as if its result were a new tensor.
        """
        sizes = np.array([term.value(alive) for term in self.activations], np.int64)
        return int(self.held(sizes).max(initial=0))

    def held(self, sizes: np.ndarray) -> np.ndarray:
        """Sums over the tensors that are held at each step.

        Args:
            sizes: A number, or a row of numbers, per activation, (activations, ...).

        Returns:
            (steps, ...).
        """
        changes = np.zeros((len(self.work) + 1, *sizes.shape[1:]), sizes.dtype)
        np.add.at(changes, list(self.births), sizes)
        np.subtract.at(changes, [death + 1 for death in self.deaths], sizes)
        return changes.cumsum(axis=0)[:-1]


def memory_of(model: nn.Module, graph: TraceGraph, labelling: Labelling, wishes: Wishes) -> Memory:
    """The memory of a traced network.

    Args:
        model: The network, asked for the size of its numbers and which modules work in place.
        graph: Its trace, of which the first road counts.
        labelling: The labels that came to rest on it.
        wishes: What they were found with.
    """
    inplace = {n for n, module in model.named_modules() if getattr(module, 'inplace', False)}
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    first = graph.first_road()
    return _Reader(first, labelling, 4 if like is None else like.element_size(), inplace).read(
        values_at_rest(graph, labelling, wishes)
    )


class _Reader:
    """Sorts the operations of a graph into work, and their outputs into pieces of memory."""

    def __init__(
        self, graph: TraceGraph, labelling: Labelling, element_size: int, inplace: Iterable[str]
    ) -> None:
        self.graph, self.labelling = graph, labelling
        self.element_size, self.inplace = element_size, set(inplace)
        self.read_edges = {e for node in graph.nodes for e in node.inputs if e is not None}
        self.read_edges |= set(graph.outputs)
        self.work: list[Work] = []
        self.home: dict[Edge, Edge | None] = {}
        """Edge -> the edge whose memory it is; None for that of a parameter."""
        self.births: dict[Edge, int] = {}
        self.deaths: dict[Edge, int] = {}

    def read(self, values: Mapping[Edge, Value]) -> Memory:
        """Visit all nodes in order."""
        for node in self.graph.nodes:
            edges = [(node.id, index) for index in range(len(node.shapes))]
            if node.op == 'parameter':
                self.home[edges[0]] = None
            elif node.op == 'input':
                self._give_birth(edges[0], step=0)
            elif self._is_view(node):
                base = node.inputs[0]
                for edge in edges:
                    self.home[edge] = None if base is None else self.home[base]
            else:
                self._visit(node, edges, values)
        last = len(self.work) - 1
        for edge in (
            *self.graph.outputs,
            *((n.id, 0) for n in self.graph.nodes if n.op == 'input'),
        ):
            self._use(edge, last)
        return Memory(
            tuple(self.work),
            tuple(self._bytes(edge, values) for edge in self.births),
            tuple(self.births.values()),
            tuple(self.deaths[edge] for edge in self.births),
        )

    def _is_view(self, node: TraceNode) -> bool:
        return bool(node.inputs) and (
            node.op in VIEWS or node.source.rstrip('0123456789') in VIEW_SOURCES
        )

    def _visit(self, node: TraceNode, edges: list[Edge], values: Mapping[Edge, Value]) -> None:
        step = len(self.work)
        inputs = [edge for edge in node.inputs if edge is not None]
        outputs = [edge for edge in edges if edge in self.read_edges]
        for edge in inputs:
            self._use(edge, step)
        is_written_into = node.op == 'copy_slices' or node.module in self.inplace
        for edge in outputs:
            base = node.inputs[0] if is_written_into and node.inputs else None
            if base is not None:
                self.home[edge] = self.home[base]
            else:
                self._give_birth(edge, step)
        if node.op == 'copy_slices':
            inputs, outputs = inputs[-1:], inputs[-1:]  # the part is read, and written
        tensors = [self._bytes(edge, values) for edge in (*inputs, *outputs)]
        tensors += [
            volume(name, self.labelling.shapes[name], factors, self.element_size)
            for name in node.attrs.get('buffers', ())
            if (factors := self.labelling.tensors.get(name)) is not None
        ]
        self.work.append(Work(node.module, node.op, tuple(tensors)))

    def _bytes(self, edge: Edge, values: Mapping[Edge, Value]) -> Term:
        node = self.graph.nodes[edge[0]]
        while node.op == 'expand' and node.inputs[0] is not None:
            edge = node.inputs[0]
            node = self.graph.nodes[edge[0]]
        value = values[edge]
        what = value.parameter or f'the output of {node.where}'
        return volume(what, value.shape, value.factors, self.element_size)

    def _give_birth(self, edge: Edge, step: int) -> None:
        self.home[edge] = edge
        self.births[edge] = self.deaths[edge] = step

    def _use(self, edge: Edge, step: int) -> None:
        home = self.home[edge]
        if home is not None:
            self.deaths[home] = max(self.deaths[home], step)
