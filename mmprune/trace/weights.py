"""Which weights a network's layers use: parameters as they are, or what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

from mmprune.trace.recipes import Recipe
from mmprune.trace.trace_graph import ComputedWeight, Edge, TraceNode, UsedWeights

MOVERS = frozenset(
    {'view', 'transpose', 'permute', 'expand', 'slice', 'select', 'split', 'unbind', 'index'}
    | {'gather', 'rows', 'cat', 'stack', 'pad', 'flip', 'roll', 'repeat', 'as_strided', 'unfold'}
    | {'windows', 'along', 'channel_shuffle', 'pixel_shuffle', 'pixel_unshuffle'}
)
"""Operations that move numbers and change none of them."""
SAME = ('CloneBackward', 'AliasBackward', 'ToCopyBackward', 'CopyBackwards', 'DetachBackward')
PRODUCTS = frozenset({'matmul', 'addmm'})
LAYERS = frozenset({'conv', 'embedding', 'recurrent', 'attention', 'bilinear', 'opaque', 'input'})
"""Operations that give features, even of constants."""
# Which inputs are weights: beside data, bias and lengths.
SLOTS = {
    'conv': (1,),
    'batch_norm': (1,),
    'layer_norm': (1,),
    'group_norm': (1,),
    'rms_norm': (1,),
    'matmul': (0, 1),
    'addmm': (1, 2),
    'bilinear': (1,),
    'embedding': (0,),
}
HOOKED = ('.parametrizations.', '_orig')
"""Parts of the names of parameters that torch itself computes an attribute of the layer from."""


def moves_only(node: TraceNode) -> bool:
    """Whether an operation leaves all numbers as they are."""
    return node.op in MOVERS or node.source.startswith(SAME)


def used_weights(
    nodes: Sequence[TraceNode],
    buffers: Iterable[str],
    recipe_of: Callable[[Edge], Recipe | None],
) -> UsedWeights:
    """Follow parameters through the graph to the layers that use them.

    Args:
        nodes: The graph.
        buffers: Those of its leaves that are no parameters.
        recipe_of: How a tensor of the graph was computed, if that was seen.
    """
    graph = _Weights(nodes, frozenset(buffers))
    found: dict[Edge, tuple[str, Edge]] = {}
    direct: set[str] = set()
    for node in nodes:
        if node.id in graph.weights:
            continue
        for slot, edge in enumerate(node.inputs):
            if edge is None or edge[0] not in graph.weights:
                continue
            for source in graph.sources(edge):
                if graph.is_parameter(source):
                    direct.add(nodes[source[0]].attrs['name'])
                elif graph.is_used_as_weight(node, slot, source):
                    if source not in found:
                        whole = graph.as_given(node, edge, source, recipe_of)
                        found[source] = node.module, whole
                else:
                    direct.update(graph.made_of(source))
    computed: dict[str, ComputedWeight] = {}
    for layer, edge in found.values():
        made_of = tuple(sorted(graph.made_of(edge)))
        plain = f'{layer}.weight' if layer else 'weight'
        weight = ComputedWeight(
            plain, edge, nodes[edge[0]].shapes[edge[1]], made_of, recipe_of(edge)
        )
        if any(weight.is_like(other) for other in computed.values()):
            continue  # a layer that runs twice
        while weight.name in direct or weight.name in computed:
            weight = replace(weight, name=f'{plain}#{len(computed)}')
        computed[weight.name] = weight
    hidden = {name for weight in computed.values() for name in weight.made_of} - direct
    return UsedWeights(tuple(computed.values()), frozenset(hidden))


class _Weights:
    """The part of a graph that depends on parameters alone."""

    def __init__(self, nodes: Sequence[TraceNode], buffers: frozenset[str]) -> None:
        self.nodes = nodes
        self.buffers = buffers
        self.weights: set[int] = set()
        self._made_of: dict[int, frozenset[str]] = {}
        for node in nodes:
            if self._is_weight(node):
                self.weights.add(node.id)

    def _is_weight(self, node: TraceNode) -> bool:
        if node.op == 'parameter':
            return True
        edges = [edge for edge in node.inputs if edge is not None]
        if node.op in LAYERS or not edges or any(e[0] not in self.weights for e in edges):
            return False
        if node.op not in PRODUCTS:
            return True
        # A product of two parameters; else a layer that runs on constants.
        sources = [list(self.sources(edge)) for edge in edges[-2:]]
        return len(sources) == 2 and all(self.is_parameter(s) for own in sources for s in own)

    def is_parameter(self, edge: Edge) -> bool:
        """Whether a tensor is a parameter or buffer itself."""
        return self.nodes[edge[0]].op == 'parameter'

    def sources(self, edge: Edge) -> Iterator[Edge]:
        """Where the numbers of a weight come from, before they were moved."""
        pending, seen = [edge], {edge}
        while pending:
            edge = pending.pop()
            node = self.nodes[edge[0]]
            if not moves_only(node):
                yield edge
                continue
            for before in reversed(node.inputs):
                if before is not None and before not in seen:
                    seen.add(before)
                    pending.append(before)

    def as_given(
        self,
        node: TraceNode,
        edge: Edge,
        source: Edge,
        recipe_of: Callable[[Edge], Recipe | None],
    ) -> Edge:
        """A computed weight as its layer is given it, in that shape, if that is all of it.

        A matrix product is given it transposed.
        """
        size = prod(self.nodes[source[0]].shapes[source[1]])
        while edge != source and node.op not in PRODUCTS:
            mover = self.nodes[edge[0]]
            before = [e for e in mover.inputs if e is not None]
            if len(before) > 1 or prod(mover.shapes[edge[1]]) != size:
                return source
            if recipe_of(edge) is not None:
                return edge
            edge = before[0]
        return source

    def made_of(self, edge: Edge) -> frozenset[str]:
        """Names of the parameters behind a weight."""
        pending = [edge[0]]
        while pending:
            node = self.nodes[pending[-1]]
            before = [e[0] for e in node.inputs if e is not None]
            todo = [n for n in before if n not in self._made_of]
            if todo:
                pending += todo
                continue
            pending.pop()
            name = {node.attrs['name']} - self.buffers if node.op == 'parameter' else set()
            self._made_of[node.id] = frozenset(name).union(*(self._made_of[n] for n in before))
        return self._made_of[edge[0]]

    def is_used_as_weight(self, node: TraceNode, slot: int, source: Edge) -> bool:
        """Whether a computed tensor stands where ``node`` has a weight."""
        names = self.made_of(source)
        if not names:
            return False
        is_hooked = any(part in name for name in names for part in HOOKED)
        is_matrix = len(self.nodes[source[0]].shapes[source[1]]) > 1  # else it may be a bias
        if is_matrix and (is_hooked or node.op == 'recurrent'):
            return True
        if slot not in SLOTS.get(node.op, ()):
            return False
        others = [e for s, e in enumerate(node.inputs) if s in SLOTS[node.op] and s != slot]
        is_beside_a_parameter = any(
            self.is_parameter(s)
            for e in others
            if e is not None and e[0] in self.weights
            for s in self.sources(e)
        )
        return not is_beside_a_parameter
