"""Rules of operations that address memory: strides, in-place writes, indices, windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmprune.channels.labels import (
    COMPLEX,
    IntArray,
    LabelBook,
    Value,
    axes_of,
    pin_all,
    squeeze_constant,
)
from mmprune.channels.meet import meet
from mmprune.channels.rules.arithmetic import per_channel, without
from mmprune.channels.rules.shapes import view
from mmprune.channels.rules.single import of_one
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode
from mmprune.trace.writes import ONE, WHOLE, Rearranged, Taken

MAX_ELEMENTS = 50_000_000
"""Labels of more elements than these are not written out one by one."""


@of_one('as_strided')
def as_strided(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """Labels move as the elements of a contiguous tensor do."""
    shape, strides, offset = (node.attrs[name] for name in ('size', 'stride', 'offset'))
    elements = int(np.prod(value.shape))
    if elements > MAX_ELEMENTS:
        pin_all([value], book, f'{node.where} views a tensor of {elements} elements by strides')
        return Value(node.shapes[0], [], value.fixed)
    factors = []
    for factor in value.factors:
        flat = np.ascontiguousarray(np.broadcast_to(factor, value.shape)).ravel()
        bytes_ = [stride * flat.itemsize for stride in strides]
        reach = (offset or 0) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if reach >= flat.size:
            book.pin(factor, f'{node.where} views memory beyond its tensor')
            continue
        moved = np.lib.stride_tricks.as_strided(flat[offset or 0 :], shape, bytes_)
        moved = squeeze_constant(np.array(moved))
        if axes_of(moved):
            factors.append(moved)
    return Value(node.shapes[0], factors, value.fixed)


@CHANNEL_RULES.register_module(name='copy_slices')
def copy_slices(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """An in-place write into a view: all elements, or a part that is whole along the channels.

    Where the trace has not seen an index, it is known by its shape alone.
    """
    base, *written = inputs
    if base is None:
        pin_all(inputs, book, f'{node.where} writes into a constant')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    values = [base]
    index = node.attrs.get('written')
    if isinstance(index, Rearranged):
        values += [_put_back(index, base, v, node, book) for v in written if v is not None]
        written = []
    elif index is not None and len(index) == len(base.shape):
        values += _written_at(node, index, base, written, book)
        written = []
    for value in written:
        if value is None or (not value.factors and np.prod(value.shape) == 1):
            continue
        if np.prod(value.shape) == np.prod(base.shape):
            values.append(view(replace(node, shapes=(base.shape,)), value, book))
            continue
        if len(value.shape) != len(base.shape):
            pin_all([base, value], book, f'{node.where} writes into a part of it')
            continue
        partial = {
            d for d, (n, m) in enumerate(zip(base.shape, value.shape, strict=True)) if n != m
        }
        reason = f'{node.where} writes into some of the channels'
        without(base, partial, book, reason)
        shape = tuple(1 if d in partial else n for d, n in enumerate(base.shape))
        values.append(Value(shape, without(value, partial, book, reason), value.fixed))
    return meet(values, base.shape, book, node.where)


def _put_back(
    view: Rearranged, base: Value, value: Value, node: TraceNode, book: LabelBook
) -> Value:
    """What was written to a view of all elements of ``base``, in the places that it has there."""
    elements = int(np.prod(base.shape))
    if elements > MAX_ELEMENTS or len(value.shape) > len(view.shape):
        pin_all([base, value], book, f'{node.where} writes into a view of {elements} elements')
        return Value(base.shape, [], value.fixed)
    bytes_ = [stride * np.dtype(np.int64).itemsize for stride in view.strides]
    places = np.lib.stride_tricks.as_strided(np.arange(elements), view.shape, bytes_).ravel()
    lead = (1,) * (len(view.shape) - len(value.shape))

    def put(data: IntArray) -> IntArray:
        moved = np.empty(elements, data.dtype)
        moved[places] = np.broadcast_to(data.reshape(lead + data.shape), view.shape).ravel()
        return squeeze_constant(moved.reshape(base.shape))

    numbers = put(np.arange(np.prod(value.shape, dtype=int)).reshape(value.shape))
    factors = [put(factor) for factor in value.factors]
    return Value(numbers.shape, [f for f in factors if axes_of(f)], value.fixed)


def _written_at(
    node: TraceNode,
    index: Taken,
    base: Value,
    written: list[Value | None],
    book: LabelBook,
) -> list[Value]:
    """What was written, seen as a tensor of the base's rank, size 1 along parts of dims.

    A run of neighbouring channels is seen among the others of the base.
    """
    reason = f'{node.where} writes into some of the channels'
    left = [dim for dim, kind in enumerate(index) if kind != ONE]
    aligned: list[Value] = []
    for value in written:
        if value is None or len(value.shape) > len(left):
            pin_all([value], book, reason)
            continue
        aligned.append(_at_dims(value, left[len(left) - len(value.shape) :], len(index)))
    partial = {dim for dim, kind in enumerate(index) if kind != WHOLE}
    for dim in sorted(partial):
        run = index[dim]
        if isinstance(run, tuple) and all(axes_of(factor) == (dim,) for factor in base.along(dim)):
            aligned = [_among(base, value, dim, run, book) for value in aligned]
            partial -= {dim} if base.along(dim) else set()
    without(base, partial, book, reason)
    return [
        Value(
            tuple(1 if dim in partial else size for dim, size in enumerate(value.shape)),
            without(value, partial, book, reason),
            value.fixed,
        )
        for value in aligned
    ]


def _at_dims(value: Value, dims: list[int], rank: int) -> Value:
    """The same value as one of a higher rank, of which it has these dims."""

    def put(sizes: tuple[int, ...]) -> tuple[int, ...]:
        found = dict(zip(dims, sizes, strict=True))
        return tuple(found.get(dim, 1) for dim in range(rank))

    factors = [factor.reshape(put(factor.shape)) for factor in value.factors]
    return Value(put(value.shape), factors, value.fixed)


def _among(base: Value, value: Value, dim: int, run: tuple[int, int], book: LabelBook) -> Value:
    """What was written to a run of channels, with the base's own channels around it."""
    if not base.along(dim):
        return value
    (factor,) = base.along(dim)
    rank = len(base.shape)
    size = [1] * rank
    size[dim] = run[1] - run[0]
    own = [f for f in value.factors if axes_of(f) == (dim,)]
    labels = factor.copy()
    place = tuple(slice(*run) if d == dim else slice(None) for d in range(rank))
    labels[place] = own[0] if own else np.full(size, value.fixed)
    others = [f for f in value.factors if axes_of(f) != (dim,)]
    kept = without(replace(value, factors=others), {dim}, book, 'is written among other channels')
    return replace(value, shape=(*value.shape[:dim], base.shape[dim], *value.shape[dim + 1 :]),
                   factors=[*kept, labels])  # fmt: skip


@of_one('index')
def index(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """Positions picked by number (a table of relative positions); other dims are whole."""
    picked, index_rank = node.attrs['picked'], node.attrs['index_rank']
    order = _order(len(value.shape), picked, index_rank)
    if index_rank < 0 or len(order) != len(node.shapes[0]):
        pin_all([value], book, f'{node.where} picks elements')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    factors = [
        f.reshape([1 if dim is None else f.shape[dim] for dim in order])
        for f in without(value, set(picked), book, f'{node.where} picks channels by number')
    ]
    return Value(node.shapes[0], factors, value.fixed)


def _order(rank: int, picked: tuple[int, ...], index_rank: int) -> list[int | None]:
    """The dims of what is picked: those of the tensor that are whole, None for the index's own."""
    rest = [dim for dim in range(rank) if dim not in picked]
    together = list(picked) == list(range(picked[0], picked[0] + len(picked)))
    front = picked[0] if together else 0
    return [*rest[:front], *[None] * index_rank, *rest[front:]]


@CHANNEL_RULES.register_module(name='index_put')
def index_put(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Writes to positions by number (regions by the level that they are read from)."""
    shape, picked, index_rank = node.shapes[0], node.attrs['picked'], node.attrs['index_rank']
    reason, constant = f'{node.where} writes to some of the channels', book.fixed('is a constant')
    order = _order(len(shape), picked, index_rank)
    base, value = inputs
    if value is None:  # of the constants that the call was given the others are indices
        others = list(node.attrs.get('constant_shapes', ()))
        for index in node.attrs['indices']:
            others.remove(index) if index in others else None
        value = Value(others[0] if others else (), [], constant)
    if index_rank < 0 or len(value.shape) > len(order):
        pin_all([base, value], book, reason)
        return Value(shape, [], book.fixed(f'comes from {node.where}'))
    base = Value(shape, [], constant) if base is None else base
    places = order[len(order) - len(value.shape) :]
    own = {i for i, dim in enumerate(places) if dim is None}

    def put(sizes: tuple[int, ...]) -> list[int]:
        found = dict(zip(places, sizes, strict=True))
        return [found.get(dim, 1) for dim in range(len(shape))]

    factors = [factor.reshape(put(factor.shape)) for factor in without(value, own, book, reason)]
    whole = tuple(1 if dim in picked else size for dim, size in enumerate(shape))
    values = [
        Value(whole, without(base, set(picked), book, reason), base.fixed, constant=base.constant),
        Value(tuple(put(value.shape)), factors, value.fixed),
    ]
    return meet(values, shape, book, node.where)


@CHANNEL_RULES.register_module(name='scatter')
def scatter(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Writes to positions along one dim, whose numbers are data; the other dims are whole."""
    base, *written = inputs
    shape = node.shapes[0]
    reason = f'{node.where} writes to positions along the channels'
    values = []
    for value in (base, *written):
        if value is None or len(value.shape) != len(shape):
            pin_all([value], book, reason)
            continue
        dim = node.attrs['dim'] % len(shape)
        pairs = zip(value.shape, shape, strict=True)
        partial = {dim, *(d for d, (own, full) in enumerate(pairs) if own != full)}
        sizes = tuple(1 if d in partial else n for d, n in enumerate(value.shape))
        values.append(Value(sizes, without(value, partial, book, reason), value.fixed))
    return meet(values, shape, book, node.where)


@of_one('rows')
def rows(node: TraceNode, value: Value, book: LabelBook) -> list[Value]:
    """Rows of channels, which are the last dim, in another order or number."""
    last = len(value.shape) - 1
    factors = without(value, set(range(last)), book, f'{node.where} packs sequences of channels')
    return [
        Value(shape, [f.reshape((1,) * (len(shape) - 1) + (-1,)) for f in factors], value.fixed)
        if shape and shape[-1] == value.shape[last]
        else Value(shape, [], value.fixed)
        for shape in node.shapes
    ]


@of_one('view_as_complex')
def view_as_complex(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """The last dim, real and imaginary part, becomes one number; of a pair of channels both go."""
    factors = per_channel(value, {len(value.shape) - 1}, book, COMPLEX)
    return Value(node.shapes[0], [f[..., 0] for f in factors], value.fixed)


@of_one('view_as_real')
def view_as_real(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """A number becomes its real and imaginary part, in a new last dim."""
    return Value(node.shapes[0], [f[..., None] for f in value.factors], value.fixed)
