"""The traced network as data: nodes, in an order in which producers come first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmprune.trace.expressions import Attribute, Dim, Edge, Expression
from mmprune.trace.recipes import Recipe


@dataclass(frozen=True)
class TraceNode:
    """One operation of the forward pass.

    Attributes:
        id: Position in ``TraceGraph.nodes``.
        op: What it does, in mmprune's words (``conv``, ``matmul``, ``view``...):
            the key of its channel rule. ``parameter``, ``input`` for leaves.
        inputs: Producer of every input; None where the input is a constant.
        shapes: Shape of every output.
        attrs: What the channel rule needs beyond shapes (dims, groups...). With
            ``constant_shapes``, shapes of the constants that the call was given; with
            ``is_update``, it only computes what is written to parameters.
        source: Name of the autograd node that it was read from.
        module: Dotted name of the innermost module in which it ran, '' for the root.
    """

    id: int
    op: str
    inputs: tuple[Edge | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, Any]
    source: str
    module: str

    @property
    def where(self) -> str:
        """Operation and place, for messages."""
        return f'{self.source} in {self.module or "the root module"}'


@dataclass(frozen=True)
class ComputedWeight:
    """A weight that a layer uses and that is no parameter, but a function of some.

    Attributes:
        name: ``<layer>.weight``, with a number behind if the layer has several.
        edge: Where it is in the graph.
        shape: Its shape.
        made_of: Names of the parameters.
        recipe: How to compute it; None if some of that was not seen.
    """

    name: str
    edge: Edge
    shape: tuple[int, ...]
    made_of: tuple[str, ...]
    recipe: Recipe | None = None

    @property
    def layer(self) -> str:
        """Dotted name of the module that uses it."""
        return self.name.rpartition('.')[0]

    def is_like(self, other: ComputedWeight) -> bool:
        """Whether both are the same function of the same parameters."""
        if (self.made_of, self.shape) != (other.made_of, other.shape):
            return False
        if self.recipe is None or other.recipe is None:
            return self.recipe is other.recipe and self.layer == other.layer
        return self.recipe.signature == other.recipe.signature


@dataclass(frozen=True)
class UsedWeights:
    """What the layers of a network use.

    Attributes:
        computed: In order of use, each once.
        hidden: Parameters that no layer uses as they are, only through those.
    """

    computed: tuple[ComputedWeight, ...] = ()
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModuleCall:
    """Traced tensors that went in and out of one call of a module.

    ``is_unreached`` says that the module owns parameters, none of which the graph reaches, and
    ``caller`` in which module's forward it was called, perhaps by a method of another module.
    """

    module: str
    caller: str
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    is_unreached: bool


@dataclass(frozen=True)
class WalkedRoad:
    """A road that was traced, see ``mmprune.trace.roads``.

    Attributes:
        name: Its name.
        training: Whether the model was in training mode.
        stop: How many nodes the graph has with those of this road, and of those before it.
        outputs: The same of its outputs.
        adds: Whether it says anything of channels that the roads before it have not said.
        needs_two: Whether a norm takes the statistics of a single value on it, which is refused
            where it is not only traced.
        problem: Why it could not be walked; empty if it could.
    """

    name: str
    training: bool
    stop: int
    outputs: int
    adds: bool = True
    needs_two: bool = False
    problem: str = ''


@dataclass(frozen=True)
class Reading:
    """A number that an operation was given for the size of a tensor, or of a part of it.

    Attributes:
        edge: The tensor.
        dim: The dim.
        start: Where the part begins along the dim.
        stop: Where it ends.
        expression: Where the number comes from; None if nobody knows.
        module: The module that ran.
        function: What the number was for, for messages.
    """

    edge: Edge
    dim: int
    start: int
    stop: int
    expression: Expression | None
    module: str
    function: str


@dataclass(frozen=True)
class TraceGraph:
    """Everything the later stages know about a network.

    Attributes:
        nodes: In topological order.
        outputs: The edges that leave the network.
        parameters: Shape of every parameter that the graph reaches, by its first name, and of
            the float buffers that are used as parameters are.
        aliases: First name of a tied parameter -> all its names.
        unreached: Parameters that the outputs do not depend on -> why. Those that an escaped
            value depends on are among ``parameters`` too.
        calls: Calls of modules, innermost first.
        opaque: Names of autograd nodes without parser -> the modules they ran in.
        escapes: Edges whose values are used outside of the autograd graph, and how.
        handed: (parameter, module that hands it to another one which uses it, or that asks for
            its size).
        recomputing: Modules that have a part of them recomputed in the backward pass.
        constants: (module, shape) of the constants that modules without tensors gave.
        buffers: Those of ``parameters`` that are buffers.
        types: What its operations give, as types of torch.
        weights: What its layers use as their weights.
        roads: The roads that were walked, those of the nodes in order.
        readings: Numbers that operations were given for sizes.
        scales: (module, dim or attribute) of what quantities were computed from: modules that
            asked for it, or computed with it.
        layer_scales: (attribute of one of torch's layers, the dim of its weight that it is), of
            those that quantities were computed from; the dim is an int if it cannot change.
        equal: Pairs of expressions that the model has compared, and that were equal.
    """

    nodes: tuple[TraceNode, ...]
    outputs: tuple[Edge, ...]
    parameters: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreached: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[ModuleCall, ...] = ()
    opaque: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    escapes: tuple[tuple[Edge, str], ...] = ()
    handed: tuple[tuple[str, str], ...] = ()
    recomputing: tuple[str, ...] = ()
    constants: tuple[tuple[str, tuple[int, ...]], ...] = ()
    buffers: frozenset[str] = frozenset()
    types: frozenset[Any] = frozenset()
    weights: UsedWeights = field(default_factory=UsedWeights)
    readings: tuple[Reading, ...] = ()
    scales: tuple[tuple[str, Dim | Attribute], ...] = ()
    layer_scales: tuple[tuple[Attribute, Expression], ...] = ()
    equal: tuple[tuple[Expression, Expression], ...] = ()
    roads: tuple[WalkedRoad, ...] = ()

    @property
    def first_stop(self) -> int:
        """How many nodes the first road has, which is the one that costs are about."""
        return self.roads[0].stop if self.roads else len(self.nodes)

    def first_road(self) -> TraceGraph:
        """The nodes, outputs and calls of the first road alone."""
        if not self.roads or self.first_stop == len(self.nodes):
            return self
        stop, outputs = self.first_stop, self.outputs[: self.roads[0].outputs]
        calls = tuple(
            c for c in self.calls if all(edge[0] < stop for edge in (*c.inputs, *c.outputs))
        )
        return replace(self, nodes=self.nodes[:stop], outputs=outputs, calls=calls)

    def consumers(self) -> dict[str, list[str]]:
        """Parameter name -> modules whose forward reads it, in order of use."""
        names = {node.id: node.attrs['name'] for node in self.nodes if node.op == 'parameter'}
        found: dict[str, dict[str, None]] = {name: {} for name in names.values()}
        callers: dict[str, dict[str, None]] = {}
        for call in self.calls:
            callers.setdefault(call.module, {}).setdefault(call.caller)
        for node in self.nodes:
            if 'is_update' in node.attrs:
                continue  # it is about the full parameters, in every subnet
            for edge in node.inputs:
                if edge is not None and edge[0] in names:
                    for module in self._readers(names[edge[0]], node.module, callers):
                        found[names[edge[0]]].setdefault(module)
            for name in node.attrs.get('buffers', ()):
                found.setdefault(name, {}).setdefault(node.module)
        for name, module in self.handed:
            found.get(name, {}).setdefault(module)
        return {name: list(modules) for name, modules in found.items()}

    def updated(self) -> frozenset[str]:
        """Parameters that are written to, and those that this is computed from."""
        names = {node.id: node.attrs['name'] for node in self.nodes if node.op == 'parameter'}
        updates = [node for node in self.nodes if 'is_update' in node.attrs]
        edges = [edge for node in updates for edge in node.inputs if edge is not None]
        return frozenset(names[edge[0]] for edge in edges if edge[0] in names)

    def _readers(
        self, name: str, module: str, callers: Mapping[str, Iterable[str]]
    ) -> Iterator[str]:
        """``module`` and, if it has got a parameter that it does not own, who may have read it.

        An outer module takes it from its owner and hands it on, perhaps as a keyword.
        """
        owners = [alias.rpartition('.')[0] for alias in self.aliases.get(name, (name,))]
        found = {module: None}
        pending = [module]
        while pending:
            module = pending.pop()
            yield module
            if module and not any(f'{owner}.'.startswith(f'{module}.') for owner in owners):
                outer = [caller for caller in callers.get(module, ('',)) if caller not in found]
                found.update(dict.fromkeys(outer))
                pending += outer

    def made_of_parameters(self) -> frozenset[int]:
        """Ids of the nodes that depend on parameters and constants alone."""
        found: set[int] = set()
        for node in self.nodes:
            edges = [edge for edge in node.inputs if edge is not None]
            if node.op == 'parameter' or (edges and all(edge[0] in found for edge in edges)):
                found.add(node.id)
        return frozenset(found)

    def __str__(self) -> str:
        lines = [f'TraceGraph: {len(self.nodes)} nodes, {len(self.parameters)} parameters']
        for node in self.nodes:
            inputs = ', '.join('const' if e is None else f'%{e[0]}' for e in node.inputs)
            shapes = ' '.join('x'.join(map(str, shape)) for shape in node.shapes)
            lines.append(f'%{node.id} = {node.op}({inputs}) -> {shapes}  [{node.where}]')
        return '\n'.join(lines)
