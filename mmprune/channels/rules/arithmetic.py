"""Rules of element-wise operations, reductions, softmax, pooling and resampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmprune.channels.labels import (
    IntArray,
    LabelBook,
    Statistic,
    Value,
    axes_of,
    first_along,
    pin_all,
)
from mmprune.channels.meet import meet
from mmprune.channels.rules.single import of_one
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def without(value: Value, dims: set[int], book: LabelBook, reason: str) -> list:
    """The factors of ``value`` that do not vary along ``dims``; the others are pinned."""
    kept = []
    for factor in value.factors:
        if any(factor.shape[dim] > 1 for dim in dims):
            book.pin(factor, reason)
        else:
            kept.append(factor)
    return kept


def fixed_after(value: Value, factors: list, book: LabelBook, node: TraceNode) -> int:
    """Why dims without a factor are whole, behind an operation that has left these factors."""
    is_same = len(factors) == len(value.factors)
    return value.fixed if is_same else book.fixed(f'comes from {node.where}')


def constants_of(node: TraceNode, book: LabelBook) -> list[Value]:
    """The constants that the call was given and that its output is broadcast with."""
    output = node.shapes[0]
    shapes = [
        shape
        for shape in node.attrs.get('constant_shapes', ())
        if len(shape) <= len(output)
        and all(a in (1, b) for a, b in zip(shape[::-1], output[::-1], strict=False))
    ]
    return [Value(shape, [], book.fixed('is a constant')) for shape in shapes]


@CHANNEL_RULES.register_module(name='elementwise')
def elementwise(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """All inputs meet, element by element, after broadcasting."""
    constants = node.attrs.get('constants', {})
    values = [value for value in inputs if value is not None]
    for index, value in enumerate(inputs):
        if value is None and index in constants:
            values.append(Value(constants[index], [], book.fixed('is a constant')))
    values += constants_of(node, book)
    result = meet(values, node.shapes[0], book, node.where)
    if len(values) == 1:
        result.parameter = values[0].parameter if values[0].shape == node.shapes[0] else None
    return result


OVER_KEPT = frozenset(
    {
        'mean', 'sum', 'amax', 'max', 'amin', 'min', 'logsumexp', 'vector_norm', 'var', 'std',
        'varmean', 'stdmean',
    }
)  # fmt: skip
"""Reductions over channels that a subnet takes over the kept ones, masked or sliced."""


@of_one('reduce')
def reduce(node: TraceNode, value: Value, book: LabelBook) -> list[Value]:
    """A mean, sum or norm over channels is taken over the kept ones; others pin.

    A sum over blocks of channels ties the blocks: each channel lives or dies in all of them.
    A sum within every block is one over the kept channels of the block.
    """
    rank = len(value.shape)
    dims, how = node.attrs['dims'], node.attrs['how']
    reduced = set(range(rank)) if not dims else {dim % rank for dim in dims}
    if not node.shapes[0]:
        book.scalars += [(node.id, factor) for factor in value.factors]
    factors = []
    for factor in value.factors:
        factor = _blocks_reduced(factor, reduced, how, book)
        axes = set(axes_of(factor))
        if not axes & reduced:
            factors.append(factor)
        elif how in OVER_KEPT:
            from_end = tuple(sorted(dim - rank for dim in reduced))
            book.statistics.append(Statistic(node.module, how, from_end, factor, node.id))
        else:
            book.pin(factor, f'{node.where} takes the {how} over the channels')
    if not node.attrs['keepdim']:
        left = [dim for dim in range(rank) if dim not in reduced]
        factors = [f.reshape([f.shape[dim] for dim in left]) for f in factors]
    return [Value(shape, list(factors), value.fixed) for shape in node.shapes]


def _blocks_reduced(factor: IntArray, reduced: set[int], how: str, book: LabelBook) -> IntArray:
    """What is left of ``factor`` where a part of its dims is reduced.

    Channels of the block that they are reduced in may go; otherwise those that are reduced
    together do, or, if they can't, those beside them do.
    """
    axes = set(axes_of(factor))
    inside = axes & reduced
    if not inside or inside == axes:
        return factor
    if how in OVER_KEPT and len(inside) == 1:
        (dim,) = inside
        if book.is_ragged(factor, dim):
            return factor
        split = book.alike_blocks if book.node in book.ways.by_dims else book.whole_blocks
        return split(factor, dim)
    book.unite_along(factor, inside)
    return first_along(factor, inside)


@of_one('glu')
def glu(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """One half of a dim times the sigmoid of the other: their channels go in pairs."""
    dim = node.attrs['dim'] % len(value.shape)
    factors = []
    for factor in value.factors:
        if factor.shape[dim] > 1:
            factor, gate = np.split(factor, 2, axis=dim)
            book.unite(factor, gate)
        factors.append(factor)
    return Value(node.shapes[0], [f for f in factors if axes_of(f)], value.fixed)


@of_one('softmax')
def softmax(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """The dim that is normalised must not hold channels, or all blocks of them alike."""
    dim = node.attrs['dim'] % len(value.shape)
    factors = []
    for factor in value.factors:
        if axes_of(factor) == (dim,):
            book.pin(factor, f'{node.where} normalises over the channels')
            continue
        if factor.shape[dim] > 1:
            book.unite_along(factor, [dim])
            factor = factor.take([0], axis=dim)
        factors.append(factor)
    return Value(value.shape, factors, fixed_after(value, factors, book, node))


PLACES = {
    'along': 'goes along the channels',
    'fft': 'transforms the channels',
    'gather': 'picks channels by number',
    'roll': 'rolls the channels by a fixed number',
    'windows': 'cuts windows of channels',
}
"""What an operation does along its dims, which must hold places, not channels."""


@of_one(*PLACES)
def along_places(node: TraceNode, value: Value, book: LabelBook) -> list[Value]:
    """Places are summed up, sorted, picked, moved: channels along other dims are as they were.

    A dim may go, or a last one come (``Tensor.unfold``).
    """
    rank = len(value.shape)
    given = node.attrs['dims'] if 'dims' in node.attrs else (node.attrs['dim'],)
    dims = {dim % max(1, rank) for dim in given or range(rank)}
    pairs = zip(value.shape, node.shapes[0], strict=False)
    dims |= {d for d, (n, m) in enumerate(pairs) if n != m and node.op == 'gather'}
    factors = without(value, dims, book, f'{node.where} {PLACES[node.op]}')
    fixed, lost = fixed_after(value, factors, book, node), min(dims, default=0)
    fitted = {
        rank - 1: [factor.squeeze(lost) for factor in factors],
        rank: factors,
        rank + 1: [factor[..., None] for factor in factors],
    }
    return [Value(shape, fitted[len(shape)], fixed) for shape in node.shapes]


def per_channel(value: Value, space: set[int], book: LabelBook, reason: str) -> list:
    """The factors of ``value`` without ``space``, at all places of which a channel is whole.

    Places of a dim that was cut into channels and places belong to one channel each; where
    there is nothing but places, they stay.
    """
    kept = []
    for factor in value.factors:
        inside = space & set(axes_of(factor))
        if inside and set(axes_of(factor)) > inside:
            book.unite_along(factor, inside)
            factor = first_along(factor, inside)
        elif inside:
            book.pin(factor, reason)
            continue
        kept.append(factor)
    return kept


@of_one('triangle')
def triangle(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """What stands in order in both dims of a matrix, the same in both, leaves a triangle again."""
    last = len(value.shape) - 1
    sides = [f for f in value.factors if axes_of(f) in ((last - 1,), (last,))]
    if node.attrs['is_ordered'] and len(sides) == 2 and sides[0].size == sides[1].size:
        book.unite(sides[0].ravel(), sides[1].ravel())
        return value
    factors = without(value, {last - 1, last}, book, f'{node.where} cuts a triangle of channels')
    return Value(value.shape, factors, fixed_after(value, factors, book, node))


SPACE = {'spatial': 2, 'spatial1d': 1, 'spatial3d': 3}
"""How many of the last dims are space."""


@CHANNEL_RULES.register_module(name=list(SPACE))
def spatial(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Pooling or resampling over space."""
    value = inputs[0]
    assert value is not None
    rank = len(value.shape)
    space = set(range(rank - SPACE[node.op], rank))
    factors = per_channel(value, space, book, f'{node.where} moves a window over the channels')
    for other in inputs[1:]:
        if other is not None:
            without(other, set(range(len(other.shape))), book, f'{node.where} samples by it')
    return Value(node.shapes[0], factors, fixed_after(value, factors, book, node))


@CHANNEL_RULES.register_module(name='loss')
def loss(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """What a loss compares stays: another number of channels is another loss."""
    pin_all(inputs, book, f'{node.where} is a loss of all of its channels')
    fixed = book.fixed(f'comes from {node.where}')
    return [Value(shape, [], fixed) for shape in node.shapes]


@CHANNEL_RULES.register_module(name='distance')
def distance(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Features that are compared meet; a mean or sum is one over the kept channels."""
    values = [value for value in inputs if value is not None]
    if len(values) < 2:
        return loss(node, inputs, book)
    met = meet(values, values[0].shape, book, node.where)
    attrs = {'dims': None, 'keepdim': False, 'how': node.attrs['how']}
    return reduce(replace(node, attrs=attrs), met, book)
