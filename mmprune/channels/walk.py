"""Write down what is done with shuffled channels between layers, as steps that run at any width.

The graph is walked once. An operation of which it is not known that it does at every width what it
does at full width is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmprune.channels.arrangement import row_key
from mmprune.channels.guarded import failed
from mmprune.channels.labels import IntArray, LabelBook, Value, axes_of
from mmprune.channels.steps import Step
from mmprune.trace.trace_graph import Edge, TraceGraph, TraceNode

SAME = frozenset(
    {'reduce', 'spatial', 'spatial1d', 'spatial3d', 'expand', 'pad', 'softmax', 'roll', 'repeat'}
)
"""Operations that leave channels as they are if they do so at full width."""
MEETINGS = frozenset({'elementwise', 'batch_norm', 'group_norm', 'layer_norm', 'rms_norm'})
"""Operations whose inputs have the same channels at the same places."""


class UnknownMoveError(Exception):
    """An operation on shuffled channels of which no step is made."""


def turned_dims(node: TraceNode, rank: int) -> list[int]:
    """Which dim of the input each dim of a transposition's output is."""
    if node.op == 'permute':
        return [dim % rank for dim in node.attrs['dims']]
    dims = list(range(rank))
    first, second = node.attrs['dim0'] % rank, node.attrs['dim1'] % rank
    dims[first], dims[second] = dims[second], dims[first]
    return dims


@dataclass
class Program:
    """What is known of the channels that are shuffled together."""

    steps: list[Step] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[IntArray] = field(default_factory=list)
    sources: dict[bytes, int] = field(default_factory=dict)
    sites: dict[tuple[int, int], None] = field(default_factory=dict)
    reason: str = ''
    problem: str = ''

    def add(self, kind: str, numbers: Iterable[int] = (), inputs: Iterable[int] = ()) -> int:
        """Write down a step, if it is not there yet; its number."""
        step = Step(kind, tuple(numbers), tuple(inputs))
        if step in self.steps[-8:]:
            return len(self.steps) - 1 - self.steps[::-1].index(step)
        self.steps.append(step)
        return len(self.steps) - 1

    def source(self, labels: IntArray) -> int:
        """The step that makes the channels of a layer."""
        key = row_key(labels)
        if key not in self.sources:
            self.sources[key] = self.add('source', (len(self.sizes),))
            self.sizes.append(len(labels))
            self.labels.append(labels)
        return self.sources[key]


@dataclass(frozen=True)
class _Place:
    """Where a tensor has shuffled channels: whose, of which step, along which dims."""

    owner: int
    step: int
    axes: tuple[int, ...]


class Walk:
    """Visits the nodes, and writes down the steps of everything that is shuffled."""

    def __init__(
        self,
        graph: TraceGraph,
        book: LabelBook,
        values: Mapping[Edge, Value],
        owner_of: IntArray,
        count: int,
    ) -> None:
        self.graph = graph
        self.book = book
        self.values = values
        self.owner_of = owner_of
        self.programs = [Program() for _ in range(count)]
        self.places: dict[Edge, _Place] = {}

    def run(self) -> None:
        """Walk over the graph; a program that cannot be written gets its ``problem``."""
        for node in self.graph.nodes:
            if node.op == 'input' or node.id in self.book.weights:
                continue
            data = [edge for edge in node.inputs if edge is not None and edge in self.places]
            outputs = [self._owned(self.values[node.id, i]) for i in range(len(node.shapes))]
            if not data and all(found is None for found in outputs):
                continue
            try:
                self._visit(node, data, outputs)
            except Exception as error:  # the shuffle keeps its order then
                is_known = isinstance(error, UnknownMoveError)
                problem = f'{node.where}: {error}' if is_known else failed(node, error)
                touched = {self.places[edge].owner for edge in data}
                for owner in touched | {found[0] for found in outputs if found is not None}:
                    self.programs[owner].problem = problem

    def _owned(self, value: Value) -> tuple[int, IntArray] | None:
        """Whose channels a tensor has, and its factor of them."""
        found = None
        for factor in value.factors:
            owners = self.owner_of[np.maximum(factor, -1)]
            owner = int(owners.max())
            if owner < 0:
                continue
            if owner > owners.min() or found is not None:
                for other in {*owners[owners >= 0].tolist(), *([found[0]] if found else [])}:
                    self.programs[other].problem = 'they are joined with other channels'
            found = owner, factor
        return found

    def _visit(
        self, node: TraceNode, data: list[Edge], outputs: list[tuple[int, IntArray] | None]
    ) -> None:
        if node.op in ('conv', 'matmul', 'addmm'):
            self._layer(node, outputs[0])
            return
        places = [self.places[edge] for edge in data]
        if not places or len({place.owner for place in places}) > 1:
            raise UnknownMoveError('they meet or come from something else')
        program = self.programs[places[0].owner]
        if node.op in ('cat', 'split', 'slice'):
            self._along(node, data, program, outputs)
            return
        if node.op not in SAME | MEETINGS | {'view', 'transpose', 'permute', 'channel_shuffle'}:
            raise UnknownMoveError('what it does at other widths is not known')
        if outputs[0] is None:
            if node.op == 'reduce':
                return
            raise UnknownMoveError('it loses them')
        if node.op in MEETINGS:
            self._meeting(node, data, program, outputs[0])
        else:
            (place,) = places
            self._put(
                node, 0, program, self._moved(node, place, program, outputs[0][1]), outputs[0]
            )

    def _put(
        self,
        node: TraceNode,
        index: int,
        program: Program,
        step: int,
        found: tuple[int, IntArray] | None,
    ) -> None:
        """Note the step of a node's output."""
        if found is None or self.programs[found[0]] is not program:
            raise UnknownMoveError('it loses them')
        self.places[node.id, index] = _Place(found[0], step, axes_of(found[1]))

    def _layer(self, node: TraceNode, found: tuple[int, IntArray] | None) -> None:
        """A convolution or a product with a weight: it reads channels, makes others, or both."""
        is_conv = node.op == 'conv'
        edge = node.inputs[0] if is_conv else node.inputs[-2]
        place = self.places.get(edge) if edge is not None else None
        if any(other in self.places for other in node.inputs if other not in (None, edge)):
            raise UnknownMoveError('its weight is no parameter')
        groups = node.attrs['groups'] if is_conv else 1
        if groups > 1 and node.attrs['transposed']:
            raise UnknownMoveError('it is transposed and has groups')
        dim = 1 if is_conv else len(node.shapes[0]) - 1
        inputs = 0 if edge is None else self.values[edge].shape[dim if is_conv else -1]
        outputs = node.shapes[0][dim]
        if groups > 1 and groups in (inputs, outputs) and inputs != outputs:
            raise UnknownMoveError('each of its groups has one channel')
        if place is not None:
            program = self.programs[place.owner]
            if place.axes != (1 if is_conv else len(self.values[edge].shape) - 1,):  # type: ignore[index]
                raise UnknownMoveError('it reads them along several dims')
            if groups > 1 and groups == inputs:
                program.sites[place.step, 1] = None
                self._put(node, 0, program, place.step, found)
                return
            program.sites[place.step, groups] = None
        if found is not None:
            owner, factor = found
            if axes_of(factor) != (dim,) or (groups > 1 and groups == outputs):
                raise UnknownMoveError('what it makes is not along its outputs')
            program = self.programs[owner]
            step = program.source(factor.ravel())
            program.sites[step, groups] = None
            self._put(node, 0, program, step, found)

    def _meeting(
        self, node: TraceNode, data: list[Edge], program: Program, found: tuple[int, IntArray]
    ) -> None:
        rank = len(node.shapes[0])
        for edge in data:
            lead = rank - len(self.values[edge].shape)
            if tuple(axis + lead for axis in self.places[edge].axes) != axes_of(found[1]):
                raise UnknownMoveError('they meet along other dims')
        steps = list(dict.fromkeys(self.places[edge].step for edge in data))
        step = steps[0] if len(steps) == 1 else program.add('alike', (), steps)
        weights = [e for e in node.inputs if e is not None and e not in self.places]
        if any(self._owned(self.values[edge]) is not None for edge in weights) or (
            node.op in MEETINGS - {'elementwise'}
        ):
            if len(axes_of(found[1])) > 1:
                raise UnknownMoveError('a weight meets blocks of them')
            program.sites[step, node.attrs.get('groups', 1)] = None
        self._put(node, 0, program, step, found)

    def _along(
        self,
        node: TraceNode,
        data: list[Edge],
        program: Program,
        outputs: list[tuple[int, IntArray] | None],
    ) -> None:
        """Join or cut tensors along a dim."""
        dim = node.attrs['dim'] % len(node.shapes[0])
        places = [self.places[edge] for edge in data]
        if any(place.axes != (dim,) for place in places):
            if any(dim in place.axes for place in places):
                raise UnknownMoveError('it cuts or joins blocks of them')
            if node.op == 'cat':
                raise UnknownMoveError('it joins tensors along another dim')
            for index, found in enumerate(outputs):
                self._put(node, index, program, places[0].step, found)
            return
        if node.op == 'cat':
            if len(data) < len(node.inputs):
                raise UnknownMoveError('it joins them with something else')
            step = program.add('cat', (), [place.step for place in places])
            self._put(node, 0, program, step, outputs[0])
            return
        full = self.values[data[0]].shape[dim]
        sizes = [shape[dim] for shape in node.shapes]
        for index, found in enumerate(outputs):
            if node.op == 'slice':
                start, size = slice(node.attrs['start'], None).indices(full)[0], sizes[0]
                if node.attrs['step'] != 1 or full % size or start % size:
                    raise UnknownMoveError('it takes no equal part of them')
                kind, numbers = 'part', (start // size, full // size)
            elif len(set(sizes)) == 1:
                kind, numbers = 'part', (index, len(sizes))
            elif sizes[:-1] == [-(-full // len(sizes))] * (len(sizes) - 1):
                kind, numbers = 'chunk', (index, len(sizes))
            else:
                raise UnknownMoveError('it cuts them into parts of other sizes')
            step = program.add(kind, numbers, [places[0].step])
            self._put(node, index, program, step, found)

    def _moved(self, node: TraceNode, place: _Place, program: Program, factor: IntArray) -> int:
        """The step of a tensor whose dims were cut, joined or turned."""
        step = place.step
        (edge,) = (edge for edge in node.inputs if edge in self.places)
        before = self._owned(self.values[edge])
        assert before is not None  # it has a place
        old = before[1].reshape([before[1].shape[axis] for axis in place.axes])
        axes = axes_of(factor)
        new = factor.reshape([factor.shape[axis] for axis in axes])
        if node.op == 'channel_shuffle':
            if place.axes != (1,):
                raise UnknownMoveError('it shuffles blocks of them')
            blocks = program.add('cut', (node.attrs['groups'],), [step])
            return program.add('flat', (), [program.add('turn', (1, 0), [blocks])])
        if node.op in ('transpose', 'permute'):
            dims = turned_dims(node, len(node.shapes[0]))
            order = tuple(place.axes.index(dims[axis]) for axis in axes)
            if order == tuple(range(len(order))):
                return step
            return program.add('turn', order, [step])
        if new.shape == old.shape and (new == old).all():
            return step
        if node.op == 'view' and new.size == old.size and (new.ravel() == old.ravel()).all():
            if old.ndim == 1:
                return program.add('cut', new.shape[:-1], [step])
            if new.ndim == 1:
                return program.add('flat', (), [step])
        raise UnknownMoveError('it moves them in a way of its own')
