"""Whole numbers that remember where they come from, while a model is traced.

``x.shape`` and ``x.size()`` of a traced tensor give such numbers, and the numbers that modules
store are replaced by such numbers for the time of the trace. Arithmetic keeps the expression, and
torch takes them as sizes. So the arguments of ``view``, ``split`` or ``zeros`` tell what each size
*is*: a dim, an attribute, an expression of both, or a number in the code.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from mmprune.trace.constants import Constants
from mmprune.trace.expressions import (
    Attribute,
    Computed,
    Dim,
    Expression,
    leaves,
)
from mmprune.trace.kinds import CONVS
from mmprune.trace.stored import sequence_like, store
from mmprune.trace.stored import stored as stored_in
from mmprune.trace.trace_graph import Reading
from mmprune.trace.traced_int import TracedInt
from mmprune.trace.walk import modules_of

UNRESOLVED = -1
"""In place of an output's number in ``Dim.edge`` while a trace runs; the other is a source's."""


class Number(TracedInt):
    """A number of a trace.

    Attributes:
        expression: Where it comes from.
        log: The log of its trace.
    """

    expression: Expression
    log: NumberLog

    def __new__(cls, value: int, expression: Expression, log: NumberLog) -> Number:
        """The number ``value``."""
        number = int.__new__(cls, value)
        number.expression, number.log = expression, log
        return number

    def _computed(self, function: str, operands: tuple[int, ...], result: int) -> int:
        if self.log.is_closed:
            return result
        own = tuple(operand_of(operand) for operand in operands)
        return Number(result, Computed(function, own), self.log)

    def _scale(self) -> int:
        self.log.note_scale(self)
        return int.__int__(self)

    def __eq__(self, other: object) -> bool:
        is_equal = int.__eq__(self, other)
        if is_equal is True and isinstance(other, Number):
            self.log.equal.append((self.expression, other.expression))
        return is_equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def operand_of(value: int) -> Expression:
    """The expression of a number, or the number itself."""
    return value.expression if isinstance(value, Number) else int(value)


class NumberLog:
    """What the numbers of one trace were used for.

    Args:
        running: Gives the name of the module that is running.

    Attributes:
        token: What constants are made from, so that they are part of the graph.
        sources: Edges of the autograd graph, or leaves, whose sizes were asked for, and the
            sizes; see ``UNRESOLVED``.
        layers: Attributes of torch's layers -> the dims of their weights that they are.
        asked: The modules that asked for the sizes of each source, by its number.
        readings: Numbers that calls were given, with edges of the autograd graph.
        scales: (module, expression): numbers used as quantities.
        equal: Pairs of expressions that were compared and found equal.
        constants: Those that are as wide as numbers say.
        is_closed: Whether the trace is over; numbers that live on are numbers then.
    """

    def __init__(self, running: Callable[[], str]) -> None:
        self.running = running
        self.token = torch.zeros((), requires_grad=True)
        self.sources: list[tuple[GradientEdge | torch.Tensor, tuple[int, ...]]] = []
        self.layers: dict[Attribute, Expression] = {}
        self.asked: dict[int, dict[str, None]] = {}
        self.readings: list[Any] = []
        self.scales: dict[tuple[str, Expression], None] = {}
        self.equal: list[tuple[Expression, Expression]] = []
        self.constants = Constants()
        self.is_closed = False
        self._numbers: dict[tuple[Any, int], int] = {}

    # -- numbers that are given out ----------------------------------------------------

    def size(self, tensor: torch.Tensor, plain: torch.Size) -> torch.Size:
        """The shape of a tensor, in numbers that know of it if it is part of the graph."""
        source = self._source(tensor, plain)
        if source is None:
            return plain
        self.asked.setdefault(source, {}).setdefault(self.running())
        return torch.Size(
            [
                Number(size, Dim((source, UNRESOLVED), dim), self) if size > 1 else size
                for dim, size in enumerate(plain)
            ]
        )

    def _source(self, tensor: torch.Tensor, shape: torch.Size) -> int | None:
        """The number of a tensor that is asked for its sizes; None if it is not in the graph."""
        if tensor.grad_fn is not None:
            key: Any = (tensor.grad_fn, tensor.output_nr)
        elif _is_leaf(tensor):
            key = id(tensor)
        else:
            return None
        number = self._numbers.setdefault(key, len(self.sources))
        if number == len(self.sources):
            # Of the many weights of a network few sizes are used: their edges can wait.
            source = tensor if tensor.grad_fn is None else GradientEdge(*key)
            self.sources.append((source, tuple(shape)))
        return number

    def edge_of(self, number: int) -> GradientEdge:
        """Where a source stands in the autograd graph."""
        source = self.sources[number][0]
        return get_gradient_edge(source) if isinstance(source, torch.Tensor) else source

    def asked_leaves(self) -> Iterator[tuple[torch.Tensor, str]]:
        """Leaves of the graph whose sizes were asked for, and each module that did."""
        for number, modules in self.asked.items():
            source = self.sources[number][0]
            if isinstance(source, torch.Tensor):
                yield from ((source, module) for module in modules)

    @contextlib.contextmanager
    def installed(self, model: nn.Module, stored: Mapping[str, Any]) -> Iterator[None]:
        """Context in which modules hold numbers of this log for those that they store.

        Args:
            model: The model; whoever calls this puts its attributes back.
            stored: Attribute -> number or numbers, by module.
        """
        modules = modules_of(model)
        for name, module in modules.items():
            for attribute, weight, dim in _sizes_of_weights(module):
                size = weight.shape[dim]
                source = self._source(weight, weight.shape) if size > 1 else None
                if source is not None:
                    place = Attribute(name, attribute)
                    self.layers[place] = Dim((source, UNRESOLVED), dim)
                    module.__dict__[attribute] = Number(size, place, self)
        for name, attributes in stored.items():
            own = modules[name]
            held = {n: v if type(v) is int else stored_in(own, n) for n, v in attributes.items()}
            store(own, {n: self._stored(value, Attribute(name, n)) for n, value in held.items()})
        with _without_memory_of_sizes():
            try:
                yield
            finally:
                self.is_closed = True
                self.constants.close()

    def _stored(self, value: Any, place: Attribute) -> Any:
        if type(value) is int:
            return Number(value, place, self) if value > 1 else value
        if isinstance(value, list | tuple):
            parts = [
                self._stored(part, Attribute(place.module, place.name, index))
                for index, part in enumerate(value)
            ]
            return sequence_like(value, parts)
        is_size = isinstance(value, int) and not isinstance(value, bool) and value > 1
        return Number(value, place, self) if is_size else value

    def nodes(self) -> list[Any]:
        """The nodes of the autograd graph, but for leaves, that numbers were used for or with."""
        expressions = [r.expression for r in self.readings if r.expression is not None]
        expressions += [expression for _, expression in self.scales]
        expressions += [expression for pair in self.equal for expression in pair]
        dims = [leaf for own in expressions for leaf in leaves(own) if isinstance(leaf, Dim)]
        edges = [reading.edge for reading in self.readings]
        edges += [self.edge_of(dim.edge[0]) for dim in dims]
        return list({edge.node: None for edge in edges if edge.node.next_functions})

    # -- numbers that come back --------------------------------------------------------

    def note_scale(self, number: Number) -> None:
        """A number was used as a quantity."""
        if not self.is_closed:
            self.scales.setdefault((self.running(), number.expression))

    def read(
        self,
        tensor: Any,
        dim: int,
        number: Any,
        function: str,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        """A call was given ``number`` for the size of ``tensor`` along a dim, or a part of it.

        A plain number is one that stands in the code if the code around the call has it as a
        constant; otherwise nobody knows where it comes from.
        """
        edge: Any = _edge(tensor) if isinstance(tensor, torch.Tensor) else None
        if edge is None or not isinstance(number, int) or number < 2:
            return
        expression: Expression | None
        if isinstance(number, Number) and number.log is self:
            expression = number.expression
        else:
            origin = origin_of(int(number))
            if origin == TORCH:
                return
            expression = int(number) if origin == CODE else None
        dim %= tensor.dim()
        stop = tensor.shape[dim] if stop is None else stop
        self.readings.append(Reading(edge, dim, start, stop, expression, self.running(), function))


def resolved(log: NumberLog, ids: Mapping[Any, int]) -> dict[str, Any]:
    """What a log has seen, in the words of a ``TraceGraph``.

    Args:
        log: The log of a trace that is over.
        ids: Node of the autograd graph -> its number. The size of what is no part of the graph
            cannot change: it is a number like one that stands in the code.
    """

    def resolve(expression: Expression) -> Any:
        if isinstance(expression, Attribute):
            expression = log.layers.get(expression, expression)
        if isinstance(expression, Dim):
            source = log.edge_of(expression.edge[0])
            if source.node not in ids:
                return log.sources[expression.edge[0]][1][expression.dim]
            return Dim((ids[source.node], source.output_nr), expression.dim)
        if isinstance(expression, Computed):
            return Computed(expression.function, tuple(map(resolve, expression.operands)))
        return expression

    return {
        'readings': tuple(
            replace(
                reading,
                edge=(ids[reading.edge.node], reading.edge.output_nr),
                expression=reading.expression and resolve(reading.expression),
            )
            for reading in log.readings
            if reading.edge.node in ids
        ),
        'scales': tuple(dict.fromkeys(_scales(log, resolve))),
        'layer_scales': tuple(
            (place, resolve(place))
            for place in dict.fromkeys(leaf for _, own in log.scales for leaf in leaves(own))
            if isinstance(place, Attribute) and place in log.layers
        ),
        'equal': tuple((resolve(first), resolve(second)) for first, second in log.equal),
    }


def _scales(
    log: NumberLog, resolve: Callable[[Expression], Any]
) -> Iterator[tuple[str, Dim | Attribute]]:
    """(module, dim or attribute) that quantities are made of: where made, and where asked for."""
    for module, expression in log.scales:
        for leaf in leaves(expression):
            found = resolve(leaf)
            if not isinstance(found, int):
                yield module, found
                for other in log.asked.get(leaf.edge[0], ()) if isinstance(leaf, Dim) else ():
                    yield other, found


def _edge(tensor: torch.Tensor) -> GradientEdge | None:
    """Where a tensor stands in the autograd graph, if it does."""
    if tensor.grad_fn is not None:
        return GradientEdge(tensor.grad_fn, tensor.output_nr)
    return get_gradient_edge(tensor) if _is_leaf(tensor) else None


def _is_leaf(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a leaf of the autograd graph."""
    return tensor.requires_grad and tensor.is_leaf and not tensor._is_view()


def _sizes_of_weights(module: nn.Module) -> list[tuple[str, torch.Tensor, int]]:
    """Attributes of one of torch's layers that are dims of a weight: (name, weight, dim)."""
    if isinstance(module, nn.MultiheadAttention):
        return [('embed_dim', module.out_proj.weight, 1)]
    if isinstance(module, nn.RNNCellBase | nn.RNNBase):
        own, end = module._parameters, '' if isinstance(module, nn.RNNCellBase) else '_l0'
        found = [('hidden_size', own[f'weight_hh{end}']), ('input_size', own[f'weight_ih{end}'])]
        projects = isinstance(module, nn.RNNBase) and module.proj_size > 0
        return [(name, w, 1) for name, w in found[projects:] if w is not None]
    weight = module._parameters.get('weight')
    if weight is None or not type(module).__module__.startswith('torch.'):
        return []
    if isinstance(module, nn.Linear):
        return [('out_features', weight, 0), ('in_features', weight, 1)]
    if isinstance(module, CONVS):
        inputs = [('in_channels', weight, 1)] if module.groups == 1 else []
        return [('out_channels', weight, 0), *inputs]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [('num_features', weight, 0)]
    if isinstance(module, nn.Embedding):
        return [('embedding_dim', weight, 1)]
    return []


@lru_cache(maxsize=4096)
def _constants(code: CodeType) -> frozenset[int]:
    """The whole numbers that stand in a piece of code."""
    found, pending = set(), list(code.co_consts)
    while pending:
        value = pending.pop()
        if isinstance(value, tuple):
            pending.extend(value)
        elif type(value) is int:
            found.add(abs(value))
    return frozenset(found)


CODE, TORCH = 'code', 'torch'
"""Origins of a number that is no ``Number``."""
# What stands between a call and the code that wrote it.
_BETWEEN = ('mmprune.trace', 'torch._tensor', 'torch.functional', 'torch.nn.functional')


def origin_of(number: int) -> str:
    """Whether the code that made this call has a number, is torch's own, or neither."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get('__name__', '')
        if not module.startswith(_BETWEEN):
            if module.startswith('torch.'):
                return TORCH
            return CODE if number in _constants(frame.f_code) else ''
        frame = frame.f_back  # type: ignore[assignment]
    return ''


@contextlib.contextmanager
def _without_memory_of_sizes() -> Iterator[None]:
    """Context in which einops computes shapes anew, instead of giving those of other tensors."""
    einops = sys.modules.get('einops.einops')
    remembered = getattr(einops, '_reconstruct_from_shape', None)
    anew = getattr(remembered, '__wrapped__', None)
    if anew is None:
        yield
        return
    einops._reconstruct_from_shape = anew  # type: ignore[union-attr]
    try:
        yield
    finally:
        einops._reconstruct_from_shape = remembered  # type: ignore[union-attr]
