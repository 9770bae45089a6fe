"""What the numbers are that operations were given for sizes, when labels have come to rest.

A number that is a dim of a tensor must stay the size of what it was given for: the two dims keep
equally many channels. One that is an attribute of a module is mended in a subnet. One that stands
in the code cannot change, so the channels that it counts stay. What is computed from several
numbers is checked for random subnets, see ``checked_sizes.misread``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import numpy as np

from mmprune.channels.checked_sizes import CheckedSize
from mmprune.channels.facts import EqualCounts, IntArray, Size, Statistic, axes_of, set_key
from mmprune.channels.labels import LabelBook, Value
from mmprune.channels.sizes import NO_SIZE, Numbers, Shrinking, SizeAttribute
from mmprune.trace.expressions import (
    Attribute,
    Computed,
    Dim,
    Expression,
    evaluate,
    is_product,
    leaves,
    text,
)
from mmprune.trace.trace_graph import Edge, Reading, TraceGraph

GUESS, RELATE, HOLD = 1, 2, 3
"""What is tried when a computed number was wrong in some subnet so often: that an attribute which
it is computed from is a dim, that dims keep the relation which it takes for granted, that all of
them stay."""


@dataclass
class ReadNumbers:
    """What the numbers of a trace have turned out to be.

    Attributes:
        attributes: Numbers of modules that are sizes of dims.
        checked: Numbers that must be the sizes of dims, and are computed from dims or attributes.
        unknown: Dims that shrink and for which a number of unknown origin was given.
        read: Attributes whose use was seen, (module, name).
        quantities: Attributes that are sizes and are used as quantities too.
    """

    attributes: list[SizeAttribute] = field(default_factory=list)
    checked: list[CheckedSize] = field(default_factory=list)
    unknown: list[Size] = field(default_factory=list)
    read: set[tuple[str, str]] = field(default_factory=set)
    quantities: list[SizeAttribute] = field(default_factory=list)


def edges_of(graph: TraceGraph) -> set[Edge]:
    """The edges whose labels are needed to know what the numbers of a trace are."""
    expressions = [reading.expression for reading in graph.readings]
    expressions += [leaf for _, leaf in graph.scales]
    expressions += [own for pair in graph.equal for own in pair]
    dims = {
        leaf.edge
        for own in expressions
        if own is not None
        for leaf in leaves(own)
        if isinstance(leaf, Dim)
    }
    inputs = [graph.nodes[reading.edge[0]].inputs[0] for reading in _computed(graph)]
    known = {edge for edge in inputs if edge is not None}
    return dims | known | {reading.edge for reading in graph.readings}


def _computed(graph: TraceGraph) -> list[Reading]:
    """The numbers that are computed from others, and were given to operations with an input."""
    return [
        reading
        for reading in graph.readings
        if isinstance(reading.expression, Computed) and graph.nodes[reading.edge[0]].inputs
    ]


class _Reader:
    """Finds out what the numbers are; see ``read_numbers``."""

    def __init__(
        self,
        graph: TraceGraph,
        values: Mapping[Edge, Value],
        book: LabelBook,
        stored: Mapping[str, Numbers],
    ) -> None:
        self.graph, self.values, self.book, self.stored = graph, values, book, stored
        self.shrinks = Shrinking(book.constraints)
        self.found = ReadNumbers()
        self.uses: dict[Attribute, list[tuple[Size, str]]] = {}
        self._dims: dict[Dim, Size] = {}

    def size_of(self, dim: Dim) -> Size:
        """The dim that a number comes from."""
        if dim not in self._dims:
            value = self.values[dim.edge]
            self._dims[dim] = self._size('', value.shape, value.along(dim.dim), dim.dim)
        return self._dims[dim]

    def _size(
        self, module: str, shape: tuple[int, ...], factors: Sequence[IntArray], dim: int
    ) -> Size:
        factors = [f for f in factors if axes_of(f) == (dim,)] or factors
        ragged = {self.book.ragged_dim(factor) for factor in factors} - {None}
        return Size(module, shape, tuple(factors), dim, True, bool(ragged - {dim}))

    def _part(self, reading: Reading) -> Size:
        """The dim that a number was given for, or the part of it."""
        value, dim = self.values[reading.edge], reading.dim
        size = self._size(reading.module, value.shape, value.along(dim), dim)
        start, stop = reading.start, reading.stop
        if (start, stop) == (0, size.full):
            return size
        index = [slice(None)] * len(value.shape)
        index[dim] = slice(start, stop)
        factors = tuple(factor[tuple(index)] for factor in size.factors)
        shape = (*value.shape[:dim], stop - start, *value.shape[dim + 1 :])
        return replace(size, shape=shape, factors=factors)

    def read(self, held: Mapping[int, int]) -> ReadNumbers:
        computed = []
        for index, reading in enumerate(self.graph.readings):
            size = self._part(reading)
            expression = reading.expression
            failures = held.get(index, 0)
            if failures >= HOLD or (failures and not isinstance(expression, Computed)):
                self._hold(size, expression, _reason(reading))
            elif isinstance(expression, Dim):
                self._equate(size, self.size_of(expression), _reason(reading))
                self._check(index, size, expression)
            elif isinstance(expression, Attribute):
                self.uses.setdefault(expression, []).append((size, _reason(reading)))
                self._check(index, size, expression)
            elif isinstance(expression, Computed):
                computed.append((index, size, expression, failures))
                if failures == RELATE:
                    self._relate(size, reading)
            elif expression is None:
                self.found.unknown += [size] if self.shrinks(size) else []
            elif self.shrinks(size):
                self._pin(size, _reason(reading))
        self._compare()
        self._bind()
        given: dict[Expression, Size] = {}
        for index, size, expression, failures in computed:
            reading = self.graph.readings[index]
            if failures:  # what one number was given for keeps equally many
                self._equate(given.setdefault(expression, size), size, _reason(reading))
            if failures != GUESS or not self._take_part(size, reading):
                dims = self._read_by(reading.edge) if failures == GUESS else None
                self._follow(size, expression, dims)
            self._check(index, size, expression)
        self._note_scales()
        return self.found

    def _check(self, index: int, size: Size, expression: Expression) -> None:
        """Whether it is right is seen in random subnets, where it is not plain to see."""
        if isinstance(expression, Dim) and size.is_same(self.size_of(expression)):
            return
        origins: dict[Dim | Attribute, Size | int] = {
            leaf: self.size_of(leaf) if isinstance(leaf, Dim) else self._raw(leaf)
            for leaf in leaves(expression)
        }
        self.found.checked.append(CheckedSize(index, size, expression, origins))

    def _raw(self, attribute: Attribute) -> int:
        raw = self.stored[attribute.module][attribute.name]
        return raw if isinstance(raw, int) else raw[attribute.index or 0]

    def _pin(self, size: Size, reason: str) -> None:
        for factor in size.factors:
            self.book.pin(factor, reason)

    def _hold(self, size: Size, expression: Expression | None, reason: str) -> None:
        """Pin a dim, and all that its number is computed from."""
        self._pin(size, reason)
        for leaf in leaves(expression) if expression is not None else ():
            if isinstance(leaf, Dim):
                self._pin(self.size_of(leaf), reason)
            else:
                fixed = Size(leaf.module, (size.full,), (), 0, True)
                self.uses.setdefault(leaf, []).append((fixed, reason))

    def _relate(self, size: Size, reading: Reading) -> None:
        """Let dims keep the relation that a computed number takes for granted, if it is plain."""
        assert isinstance(reading.expression, Computed)
        dims = {leaf for leaf in leaves(reading.expression) if isinstance(leaf, Dim)}
        if not self._tie_to_input(dims, reading) and len(dims) == 1:
            self._keep_ratio(size, self.size_of(dims.pop()), _reason(reading))

    def _tie_to_input(self, dims: Iterable[Dim], reading: Reading) -> bool:
        """What is viewed by the sizes of another tensor is taken to be as wide as that one."""
        has_tied = False
        for dim in dims:
            other = self.size_of(dim)
            for own in self._read_by(reading.edge):
                is_free = own.full == other.full and self.shrinks(own) and self.shrinks(other)
                if is_free and set_key(own.row()) != set_key(other.row()):
                    self._equate(own, other, _reason(reading))
                    has_tied = True
        return has_tied

    def _keep_ratio(self, size: Size, other: Size, reason: str) -> None:
        """Of all parts as large as the greatest common divisor of two dims equally many stay."""
        each = gcd(size.full, other.full)
        if each > 1 and self.shrinks(size) and self.shrinks(other):
            rows = np.concatenate([own.row().reshape(-1, each) for own in (size, other)])
            self.book.equal_counts(rows, reason)

    def _equate(self, first: Size, second: Size, reason: str) -> None:
        """Two dims keep equally many channels."""
        if first.is_same(second):
            return
        are_shrinking = self.shrinks(first), self.shrinks(second)
        if all(are_shrinking):
            rows = first.row(), second.row()
            if set_key(rows[0]) != set_key(rows[1]):
                self.book.constraints.append(EqualCounts(np.stack(rows), reason))
        elif any(are_shrinking):
            self._pin(first if are_shrinking[0] else second, reason)

    def _compare(self) -> None:
        """An attribute that the model compares with dims is these dims, if nothing else.

        Two dims that it finds equal keep equally many.
        """
        compared: dict[Attribute, list[tuple[Size, str]]] = {}
        for first, second in self.graph.equal:
            if isinstance(first, Dim) and isinstance(second, Dim):
                sizes = self.size_of(first), self.size_of(second)
                if all(map(self.shrinks, sizes)):
                    self._equate(*sizes, 'the model compares their number with that of others')
            for own, other in ((first, second), (second, first)):
                if isinstance(own, Attribute) and isinstance(other, Dim) and own not in self.uses:
                    size = self.size_of(other)
                    if self.shrinks(size):
                        reason = f'{own.module} compares it with its {own.name}'
                        compared.setdefault(own, []).append((size, reason))
        self.uses.update(compared)

    def _bind(self) -> None:
        """Every attribute is the dim that it was given for; several dims keep equally many."""
        for attribute, uses in self.uses.items():
            self.found.read.add((attribute.module, attribute.name))
            shrinking = [use for use in uses if self.shrinks(use[0])]
            if not shrinking:
                continue
            if len(shrinking) < len(uses):
                for size, reason in shrinking:
                    self._pin(size, f'{reason}, and something that stays has that size too')
                continue
            (first, _), *others = shrinking
            for size, reason in others:
                self._equate(first, size, reason)
            self._add(attribute, first)

    def _add(self, attribute: Attribute, size: Size) -> None:
        raw = self.stored[attribute.module][attribute.name]
        own = SizeAttribute(attribute.module, attribute.name, raw, attribute.index, size)
        self.found.attributes.append(own)

    def _read_by(self, edge: Edge) -> list[Size]:
        """The dims of the first input of an operation."""
        source = next(iter(self.graph.nodes[edge[0]].inputs), None)
        if source is None:
            return []
        return [self.size_of(Dim(source, dim)) for dim in range(len(self.values[source].shape))]

    def _take_part(self, size: Size, reading: Reading) -> bool:
        """Let an attribute of which a dim has some times as much be one of as many equal parts."""
        expression = reading.expression
        own = list(leaves(expression)) if expression and is_product(expression) else []
        own = [d for d in own if isinstance(d, Attribute) or self.shrinks(self.size_of(d))]
        is_plain = len(size.factors) == 1 and size.factors[0].size == size.full
        if len(own) != 1 or not isinstance(own[0], Attribute) or not is_plain:
            return False
        attribute, row = own[0], size.row()
        places, rest = divmod(len(row), len(np.unique(row)))
        each = row.reshape(-1, places if rest == 0 else 1)
        channels = each[:, 0] if (each == each[:, :1]).all() else row
        if len(channels) % self._raw(attribute):
            return False
        parts = channels.reshape(-1, self._raw(attribute))
        self.book.equal_counts(parts, _reason(reading))
        part = Size(attribute.module, parts[0].shape, (parts[0],), 0, True)
        uses = self.uses.setdefault(attribute, [])
        self.found.read.add((attribute.module, attribute.name))
        if uses:
            self._equate(uses[0][0], part, _reason(reading))
        else:
            uses.append((part, _reason(reading)))
            self._add(attribute, part)
        return True

    def _follow(self, size: Size, expression: Computed, read: list[Size] | None) -> None:
        """Note the attributes that a number is computed from.

        Args:
            size: What the number was given for.
            expression: Where it comes from.
            read: Dims of which the attributes may be one, if it is to be guessed.
        """
        dims = [self.size_of(leaf) for leaf in leaves(expression) if isinstance(leaf, Dim)]
        for leaf in leaves(expression):
            if isinstance(leaf, Attribute):
                self.found.read.add((leaf.module, leaf.name))
                is_guess = read is not None and leaf not in self.uses
                if is_guess and not NO_SIZE.search(leaf.name):
                    self._guess(leaf, size, dims + (read or []), self._divides(leaf, expression))

    def _divides(self, attribute: Attribute, expression: Computed) -> bool:
        """Whether a number gets smaller as an attribute that it is computed from gets larger."""
        full: dict[Dim | Attribute, int] = {
            leaf: self.size_of(leaf).full if isinstance(leaf, Dim) else self._raw(leaf)
            for leaf in leaves(expression)
        }
        now = evaluate(expression, full.__getitem__)
        then = evaluate(expression, {**full, attribute: 2 * full[attribute]}.__getitem__)
        return now is not None and then is not None and then < now

    def _guess(self, attribute: Attribute, size: Size, dims: list[Size], divides: bool) -> None:
        """An attribute that is only ever computed with is a dim of its size nearby.

        Nearby are the dims that it is computed with, those that the operation reads, and those that
        have channels of what it was computed for; which it is not itself if it divides.
        """
        labels = np.concatenate([np.zeros(0, np.int64), *(f.ravel() for f in size.factors)])
        for own in dims + [own for own in self.book.sizes if own.module == attribute.module]:
            is_near = any(own is dim for dim in dims) or any(
                np.isin(f, labels).any() for f in own.factors
            )
            is_it = own.full == self._raw(attribute) and not (divides and own.is_same(size))
            if is_near and is_it and self.shrinks(own):
                where = attribute.module or 'the root module'
                self.uses[attribute] = [(own, f'{where} computes with its {attribute.name}')]
                self._add(attribute, own)
                return
        self.uses[attribute] = []

    def _note_scales(self) -> None:
        """Sizes that are used as quantities, which masked execution has to tell."""
        bound = {Attribute(o.module, o.name, o.index): o for o in self.found.attributes}
        quantities = self.found.quantities
        for place, dim in self.graph.layer_scales:
            if isinstance(dim, Dim) and self.shrinks(self.size_of(dim)):
                size = self.size_of(dim)
                quantities.append(SizeAttribute(place.module, place.name, size.full, None, size))
        seen: dict[tuple[str, tuple[int, ...]], IntArray] = {}
        for module, leaf in self.graph.scales:
            if isinstance(leaf, Attribute):
                self.found.read.add((leaf.module, leaf.name))
                if leaf in bound and bound[leaf] not in quantities:
                    quantities.append(bound[leaf])
                continue
            size = self.size_of(leaf)
            for factor in size.factors if self.shrinks(size) else ():
                first = seen.setdefault((module, (*size.shape[1:], size.dim)), factor)
                if first is not factor and not np.array_equal(first, factor):
                    reason = f'{module or "the root module"} computes with sizes of several tensors'
                    self.book.pin(factor, reason)
                    self.book.pin(first, reason)
                from_end = (size.dim - len(size.shape),)
                self.book.statistics.append(Statistic(module, 'size', from_end, factor))


def _reason(reading: Reading) -> str:
    where = reading.module or 'the root module'
    if isinstance(reading.expression, int):
        return f'{reading.function} in {where} counts {reading.expression} of them in its code'
    return f'{reading.function} in {where} counts them by {text(reading.expression)}'


def read_numbers(
    graph: TraceGraph,
    values: Mapping[Edge, Value],
    book: LabelBook,
    stored: Mapping[str, Numbers],
    held: Mapping[int, int],
) -> ReadNumbers:
    """Find out what the numbers are that operations were given.

    Args:
        graph: The traced network.
        values: Labels at rest of the edges of ``edges_of``.
        book: Where channels are constrained or pinned, so that the numbers are right.
        stored: Numbers that modules store.
        held: Readings (by their place) that were wrong in some subnet, and how often.
    """
    return _Reader(graph, values, book, stored).read(held)
