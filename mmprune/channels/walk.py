"""Write down what is done with shuffled channels between layers, as steps that run at any width.

The graph is walked once. An operation of which it is not known that it does at every width what it
does at full width is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

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

MOVES = frozenset({'view', 'as_strided', 'transpose', 'permute', 'channel_shuffle'})
"""Operations that cut dims, join them, or let them change places."""


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
    made: dict[bytes, int] = field(default_factory=dict)
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
        """The step that makes the channels of a layer, or has those that it makes again."""
        key = row_key(labels)
        if key not in self.made:
            self.made[key] = self.add('source', (len(self.sizes),))
            self.sizes.append(len(labels))
            self.labels.append(labels)
        return self.made[key]


@dataclass(frozen=True)
class Part:
    """Labels of one owner that a tensor has: all of a factor, or a run of one along one dim.

    Attributes:
        owner: Whose they are.
        factor: The labels, of the rank of the tensor.
        start: Where they begin along the dim.
        axes: The dims that have them.
        is_whole: Whether nothing stands beside them.
        step: The step that has them, once it is known.
    """

    owner: int
    factor: IntArray
    start: int
    axes: tuple[int, ...]
    is_whole: bool = True
    step: int = -1

    @property
    def end(self) -> int:
        """Where they end along the dim."""
        return self.start + self.factor.size


def parts_of(factor: IntArray, owner_of: IntArray) -> list[Part] | None:
    """The parts of a factor that somebody owns, in order; None where others stand between them."""
    owners = owner_of[np.maximum(factor, -1)]
    if owners.max() < 0:
        return []
    axes = axes_of(factor)
    if owners.min() == owners.max():
        return [Part(int(owners.max()), factor, 0, axes)]
    if len(axes) != 1:
        return None
    (axis,) = axes
    bounds = [0, *(np.flatnonzero(np.diff(owners.ravel())) + 1).tolist(), owners.size]
    return [
        Part(int(owners.ravel()[start]), run, start, axes, is_whole=False)
        for start, run in zip(bounds, np.split(factor, bounds[1:-1], axis), strict=False)
        if owners.ravel()[start] >= 0
    ]


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
        self.places: dict[Edge, list[Part]] = {}

    def run(self) -> None:
        """Walk over the graph; a program that cannot be written gets its ``problem``."""
        for node in self.graph.nodes:
            if node.op == 'input' or node.id in self.book.weights:
                continue
            data = [edge for edge in node.inputs if edge is not None and edge in self.places]
            outputs = [self._owned(self.values[node.id, i]) for i in range(len(node.shapes))]
            if not data and not any(outputs):
                continue
            try:
                self._visit(node, data, outputs)
            except Exception as error:  # the shuffle keeps its order then
                is_known = isinstance(error, UnknownMoveError)
                problem = f'{node.where}: {error}' if is_known else failed(node, error)
                touched = {place.owner for edge in data for place in self.places[edge]}
                for owner in touched | {part.owner for parts in outputs for part in parts}:
                    self.programs[owner].problem = self.programs[owner].problem or problem

    def _owned(self, value: Value) -> list[Part]:
        """Whose channels a tensor has along which dims, beside whichever others."""
        found: list[Part] = []
        for factor in value.factors:
            own = parts_of(factor, self.owner_of)
            if own is None or (own and found):
                owners = self.owner_of[np.maximum(factor, -1)]
                for other in {*owners[owners >= 0].tolist(), *(part.owner for part in found)}:
                    self.programs[other].problem = 'they are joined with other channels'
            found = own or found
        return found

    def _visit(self, node: TraceNode, data: list[Edge], outputs: list[list[Part]]) -> None:
        if node.op in ('conv', 'matmul', 'addmm'):
            self._layer(node, outputs[0])
            return
        places = [place for edge in data for place in self.places[edge]]
        if not places:
            raise UnknownMoveError('they come from something else')
        if node.op == 'cat':
            self._joined(node, data, outputs[0])
        elif node.op == 'copy_slices':
            self._written(node, data, outputs[0])
        elif node.op in ('split', 'slice'):
            self._cut(node, self.places[data[0]], self.values[data[0]], outputs)
        elif node.op not in SAME | MEETINGS | MOVES:
            raise UnknownMoveError('what it does at other widths is not known')
        elif not outputs[0]:
            if node.op != 'reduce':
                raise UnknownMoveError('it loses them')
        elif node.op in MEETINGS:
            for part in outputs[0]:
                self._meeting(node, data, part)
        elif all(place.is_whole for place in places):
            (place,), (part,) = places, outputs[0]
            self._put(node, 0, self._moved(node, place, part.factor), part, place.owner)
        elif node.op in SAME:
            self._same(node, 0, places, outputs[0])
        else:
            raise UnknownMoveError('it moves them in a way of its own')

    def _same(self, node: TraceNode, index: int, places: list[Part], parts: list[Part]) -> None:
        """What stands beside each other stays as it is."""
        if [(p.start, p.end) for p in places] != [(p.start, p.end) for p in parts]:
            raise UnknownMoveError('it moves them in a way of its own')
        for place, part in zip(places, parts, strict=True):
            self._put(node, index, place.step, part, place.owner)

    def _put(self, node: TraceNode, index: int, step: int, part: Part, owner: int) -> None:
        """Note the step of a part of a node's output."""
        if part.owner != owner:
            raise UnknownMoveError('it loses them')
        self.places.setdefault((node.id, index), []).append(replace(part, step=step))
        if len(part.axes) == 1:
            self.programs[owner].made.setdefault(row_key(part.factor.ravel()), step)

    def _layer(self, node: TraceNode, parts: list[Part]) -> None:
        """A convolution or a product with a weight: it reads channels, makes others, or both."""
        is_conv = node.op == 'conv'
        edge = node.inputs[0] if is_conv else node.inputs[-2]
        places = self.places.get(edge, []) if edge is not None else []
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
        is_deep = groups > 1 and groups == inputs
        are_whole = all(p.is_whole for p in places) and all(p.is_whole for p in parts)
        if groups > 1 and not (is_deep or are_whole):
            raise UnknownMoveError('its groups have them beside others')
        for place in places:
            if place.axes != (1 if is_conv else len(self.values[edge].shape) - 1,):  # type: ignore[index]
                raise UnknownMoveError('it reads them along several dims')
            self.programs[place.owner].sites[place.step, 1 if is_deep else groups] = None
        if is_deep and places:
            self._same(node, 0, places, parts)
            return
        for part in parts:
            if part.axes != (dim,) or (groups > 1 and groups == outputs):
                raise UnknownMoveError('what it makes is not along its outputs')
            program = self.programs[part.owner]
            step = program.source(part.factor.ravel())
            program.sites[step, groups] = None
            self._put(node, 0, step, part, part.owner)

    def _meeting(self, node: TraceNode, data: list[Edge], part: Part) -> None:
        rank, program = len(node.shapes[0]), self.programs[part.owner]
        steps: dict[int, None] = {}
        for edge in data:
            lead = rank - len(self.values[edge].shape)
            own = [p for p in self.places[edge] if (p.owner, p.start) == (part.owner, part.start)]
            if any(tuple(axis + lead for axis in p.axes) != part.axes for p in own):
                raise UnknownMoveError('they meet along other dims')
            steps.update((place.step, None) for place in own)
        if not steps:
            raise UnknownMoveError('they meet or come from something else')
        step = next(iter(steps)) if len(steps) == 1 else program.add('alike', (), steps)
        weights = [e for e in node.inputs if e is not None and e not in self.places]
        of_weights = [own for edge in weights for own in self._owned(self.values[edge])]
        if any(own.owner == part.owner for own in of_weights) or node.op != 'elementwise':
            if len(part.axes) > 1:
                raise UnknownMoveError('a weight meets blocks of them')
            groups = node.attrs.get('groups', 1)
            if groups > 1 and not part.is_whole:
                raise UnknownMoveError('its groups have them beside others')
            program.sites[step, groups] = None
        self._put(node, 0, step, part, part.owner)

    def _written(self, node: TraceNode, data: list[Edge], parts: list[Part]) -> None:
        """A write into all of a tensor, through a view: it meets what was there."""
        base = node.inputs[0]
        placed = [place for edge in data for place in self.places[edge]]
        if len(parts) != 1 or base not in data or len(placed) != len(data):
            raise UnknownMoveError('it is written among others')
        (part,), (place,) = parts, self.places[base]
        if any(not np.array_equal(p.factor.ravel(), part.factor.ravel()) for p in placed):
            raise UnknownMoveError('it is written in another order')
        program = self.programs[place.owner]
        flat = [
            each.step if len(each.axes) == 1 else program.add('flat', (), [each.step])
            for each in placed
        ]
        program.add('alike', (), flat)
        self._put(node, 0, place.step, part, place.owner)

    def _joined(self, node: TraceNode, data: list[Edge], parts: list[Part]) -> None:
        """Tensors along a dim, one behind the other."""
        dim = node.attrs['dim'] % len(node.shapes[0])
        if any(place.axes != (dim,) for edge in data for place in self.places[edge]):
            raise UnknownMoveError('it joins blocks of them, or along another dim')
        begin, runs = 0, list[list[Part]]()
        for edge in node.inputs:
            assert edge is not None
            for place in self.places.get(edge, ()):
                moved = replace(place, start=begin + place.start)
                last = runs[-1][-1] if runs else None
                if last and (last.owner, last.end) == (place.owner, moved.start):
                    runs[-1].append(moved)
                else:
                    runs.append([moved])
            begin += self.values[edge].shape[dim]
        if [(run[0].owner, run[0].start) for run in runs] != [(p.owner, p.start) for p in parts]:
            raise UnknownMoveError('it joins them with something else')
        for run, part in zip(runs, parts, strict=True):
            program = self.programs[part.owner]
            steps = [place.step for place in run]
            step = program.add('cat', (), steps) if len(steps) > 1 else steps[0]
            self._put(node, 0, step, part, part.owner)

    def _cut(
        self, node: TraceNode, places: list[Part], value: Value, outputs: list[list[Part]]
    ) -> None:
        """Parts of a tensor along a dim."""
        dim = node.attrs['dim'] % len(node.shapes[0])
        if any(place.axes != (dim,) for place in places):
            if any(dim in place.axes for place in places) or not places[0].is_whole:
                raise UnknownMoveError('it cuts blocks of them')
            for index, parts in enumerate(outputs):
                for part in parts:
                    self._put(node, index, places[0].step, part, places[0].owner)
            return
        full = value.shape[dim]
        sizes = [shape[dim] for shape in node.shapes]
        begin = slice(node.attrs['start'], None).indices(full)[0] if node.op == 'slice' else 0
        if not places[0].is_whole:
            if node.op == 'slice' and node.attrs['step'] != 1:
                raise UnknownMoveError('it takes no whole part of them')
            for index, parts in enumerate(outputs):
                inside = [p for p in places if begin <= p.start < begin + sizes[index]]
                inside = [replace(place, start=place.start - begin) for place in inside]
                if any(place.end > sizes[index] for place in inside):
                    raise UnknownMoveError('it cuts them where others begin')
                self._same(node, index, inside, parts)
                begin += sizes[index]
            return
        place = places[0]
        program = self.programs[place.owner]
        for index, parts in enumerate(outputs):
            if node.op == 'slice':
                size = sizes[0]
                if node.attrs['step'] != 1 or full % size or begin % size:
                    raise UnknownMoveError('it takes no equal part of them')
                kind, numbers = 'part', (begin // size, full // size)
            elif len(set(sizes)) == 1:
                kind, numbers = 'part', (index, len(sizes))
            elif sizes[:-1] == [-(-full // len(sizes))] * (len(sizes) - 1):
                kind, numbers = 'chunk', (index, len(sizes))
            else:
                raise UnknownMoveError('it cuts them into parts of other sizes')
            step = program.add(kind, numbers, [place.step])
            (part,) = parts
            self._put(node, index, step, part, place.owner)

    def _moved(self, node: TraceNode, place: Part, factor: IntArray) -> int:
        """The step of a tensor whose dims were cut, joined or turned."""
        step, program = place.step, self.programs[place.owner]
        old = place.factor.reshape([place.factor.shape[axis] for axis in place.axes])
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
        if (
            node.op in ('view', 'as_strided')
            and new.size == old.size
            and (new.ravel() == old.ravel()).all()
        ):
            if old.ndim == 1:
                return program.add('cut', new.shape[:-1], [step])
            if new.ndim == 1:
                return program.add('flat', (), [step])
        raise UnknownMoveError('it moves them in a way of its own')
