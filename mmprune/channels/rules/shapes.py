"""Rules of operations that move data: labels move as the data does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mmprune.channels.labels import (
    IntArray,
    LabelBook,
    Value,
    axes_of,
    pin_all,
    squeeze_constant,
)
from mmprune.channels.rules.arithmetic import fixed_after, without
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode

Move = Callable[[IntArray], IntArray]


def _single(inputs: list[Value | None]) -> Value:
    (value,) = (v for v in inputs if v is not None)
    return value


def _moved(value: Value, move: Move, shape: tuple[int, ...], keep_name: bool = False) -> Value:
    """Apply ``move`` to every factor."""
    factors = [squeeze_constant(move(factor)) for factor in value.factors]
    name = value.parameter if keep_name else None
    return Value(shape, [f for f in factors if axes_of(f)], value.fixed, name)


@lru_cache(maxsize=4096)
def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]]:
    """Smallest runs of old and new dims that hold the same number of elements."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left = old[i] if i < len(old) else 1
        right = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        blocks.append((range(first_i, i), range(first_j, j)))
    return blocks


@CHANNEL_RULES.register_module(name='view')
def view(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A dim that is cut in two keeps the same number of channels in every block.

    Blocks may be joined again in the order in which they were cut. In another order (a shuffle)
    they may where it is known what a smaller network does, see ``Arrangement``; elsewhere the
    blocks live or die as a whole.
    """
    value, new = _single(inputs), node.shapes[0]
    blocks = _blocks(value.shape, new)
    factors: list[tuple[set[int], IntArray]] = []
    for factor in value.factors:
        full, target = list(factor.shape), [1] * len(new)
        for old_dims, new_dims in blocks:
            varying = [dim for dim in old_dims if factor.shape[dim] > 1]
            if varying:
                for dim in old_dims:
                    full[dim] = value.shape[dim]
                for dim in new_dims:
                    target[dim] = new[dim]
            joins = len(varying) > 1 and len(new_dims) < len(old_dims)
            if joins and node.id not in book.loose and not book.is_ragged(factor, varying[-1]):
                book.unite_along(factor, varying[:-1])
        moved = squeeze_constant(np.broadcast_to(factor, full).reshape(target))
        axes = axes_of(moved)
        if len(axes) > len(axes_of(factor)):
            _equal_blocks(moved, axes[-1], book, f'{node.where} cuts the channels into blocks')
        elif len(axes) > 1 and book.is_ragged(factor, axes_of(factor)[-1]):
            book.mark_ragged(moved, axes[-1])
        if axes:
            factors.append((set(axes_of(factor)), moved))
    return Value(new, _one_per_dim(factors, book, node), value.fixed)


def _one_per_dim(
    factors: list[tuple[set[int], IntArray]], book: LabelBook, node: TraceNode
) -> list[IntArray]:
    """Of factors whose dims were joined, the one with most channels; others are pinned.

    ``factors`` are pairs of the dims that a factor varied along before, and its labels now.
    """
    if len(factors) < 2:
        return [factor for _, factor in factors]
    chosen: list[tuple[set[int], IntArray]] = []
    for before, factor in sorted(factors, key=lambda pair: -len(np.unique(pair[1]))):
        joined = [
            other
            for dims, other in chosen
            if not dims & before and set(axes_of(other)) & set(axes_of(factor))
        ]
        if joined:
            book.pin(factor, f'{node.where} joins it with other channels in one dim')
        else:
            chosen.append((before, factor))
    return [factor for _, factor in chosen]


def _equal_blocks(factor: IntArray, dim: int, book: LabelBook, reason: str) -> None:
    """Equally many channels along ``dim`` at every position of the other dims."""
    book.equal_counts(np.moveaxis(factor, dim, -1).reshape(-1, factor.shape[dim]), reason)


@CHANNEL_RULES.register_module(name='expand')
def expand(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A broadcast dim is constant, or as wide as what it was given the size of."""
    value, shape = _single(inputs), node.shapes[0]
    lead = (1,) * (len(shape) - len(value.shape))
    result = _moved(value, lambda f: f.reshape(lead + f.shape), shape)
    before = lead + value.shape
    wide = _as_wide(node, book)
    new = {d for d, n in enumerate(shape) if before[d] == 1 < n}
    result.constant = frozenset(new - {axes_of(factor)[0] for factor in wide})
    result.factors += wide
    return result


def _as_wide(node: TraceNode, book: LabelBook) -> list[IntArray]:
    """Labels of the dims that a node has made as wide as something that shrinks."""
    shape, found = node.shapes[0], []
    for dim in range(len(shape)):
        labels = book.width_of(node.id, dim)
        if labels is not None:
            found.append(labels.reshape([-1 if d == dim else 1 for d in range(len(shape))]))
    return found


@CHANNEL_RULES.register_module(name='filled')
def filled(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A constant, the same everywhere, as wide as what it was given the sizes of."""
    return Value(node.shapes[0], _as_wide(node, book), book.fixed('is a constant'))


@CHANNEL_RULES.register_module(name='repeat')
def repeat(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A dim repeated r times holds r equal blocks; a dim of size 1 becomes constant."""
    value, shape, repeats = _single(inputs), node.shapes[0], node.attrs['repeats']
    lead = (1,) * (len(shape) - len(value.shape))

    def tile(factor: IntArray) -> IntArray:
        factor = factor.reshape(lead + factor.shape)
        times = [r if s > 1 else 1 for r, s in zip(repeats, factor.shape, strict=True)]
        return np.tile(factor, times)

    result = _moved(value, tile, shape)
    result.factors += _as_wide(node, book)
    return result


@CHANNEL_RULES.register_module(name='transpose')
def transpose(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Two dims change places."""
    dim0, dim1 = node.attrs['dim0'], node.attrs['dim1']
    if len(node.shapes[0]) < 2:
        return _single(inputs)
    return _moved(_single(inputs), lambda f: f.swapaxes(dim0, dim1), node.shapes[0], True)


@CHANNEL_RULES.register_module(name='permute')
def permute(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Dims change places."""
    dims = node.attrs['dims']
    return _moved(_single(inputs), lambda f: f.transpose(dims), node.shapes[0], True)


@CHANNEL_RULES.register_module(name='cat')
def cat(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Labels along the joined dim are strung together; constants among them stay."""
    shape = node.shapes[0]
    dim = node.attrs['dim'] % len(shape)
    values = [v for v in inputs if v is not None]
    missing = shape[dim] - sum(v.shape[dim] for v in values)
    if len(values) < len(inputs) and missing:  # an empty one, as of a new cache, adds nothing
        constants = _constants_along(node, dim, missing, sum(v is None for v in inputs))
        fixed = book.fixed('is a constant')
        if not constants:
            pin_all(values, book, f'{node.where} joins it with several constants')
            return Value(shape, [], fixed)
        rest = iter(constants)
        values = [v if v is not None else Value(next(rest), [], fixed) for v in inputs]
    return _join(node, values, dim, shape, book)


def _constants_along(node: TraceNode, dim: int, missing: int, count: int) -> list[tuple[int, ...]]:
    """Shapes of the constants among what is joined, in order; none if they are not known."""
    full = list(node.shapes[0])
    if count == 1:
        return [(*full[:dim], missing, *full[dim + 1 :])]
    shapes = [s for s in node.attrs.get('constant_shapes', ()) if len(s) == len(full)]
    known = len(shapes) == count and sum(s[dim] for s in shapes) == missing
    return shapes if known else []


def _join(
    node: TraceNode, values: list[Value], dim: int, shape: tuple[int, ...], book: LabelBook
) -> Value:
    """Concatenate along ``dim``: factors along it are strung together, others are united."""
    strung = {_but(axes_of(f), dim) for v in values for f in v.along(dim)}
    factors = [
        np.concatenate([_piece(value, rest, dim) for value in values], axis=dim)
        for rest in sorted(strung)
    ]
    for axes in sorted({axes_of(f) for v in values for f in v.factors if f.shape[dim] == 1}):
        if axes in strung:
            continue
        own = [next((f for f in v.factors if axes_of(f) == axes), None) for v in values]
        first = next(f for f in own if f is not None)
        for value, factor in zip(values, own, strict=True):
            if factor is not None:
                book.unite(first, factor)
            else:
                why = book.reasons[-value.fixed]
                book.pin(first, f'{node.where} joins it with a tensor that {why}')
        factors.append(first)
    return Value(shape, factors, values[0].fixed)


def _piece(value: Value, rest: tuple[int, ...], dim: int) -> IntArray:
    """Labels of one joined tensor along ``rest`` and ``dim``; fixed ones if it has none."""
    size = [n if d == dim or d in rest else 1 for d, n in enumerate(value.shape)]
    for factor in value.factors:
        if _but(axes_of(factor), dim) == rest:
            return np.broadcast_to(factor, size)
    return np.full(size, value.fixed)


def _but(axes: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(axis for axis in axes if axis != dim)


@CHANNEL_RULES.register_module(name='stack')
def stack(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A concatenation along a new dim."""
    shape = node.shapes[0]
    dim = node.attrs['dim'] % len(shape)
    if any(v is None for v in inputs):
        pin_all(inputs, book, f'{node.where} stacks it with a constant')
        return Value(shape, [], book.fixed('is stacked with a constant'))
    values = [
        Value(
            (*v.shape[:dim], 1, *v.shape[dim:]),
            [np.expand_dims(f, dim) for f in v.factors],
            v.fixed,
        )
        for v in inputs
        if v is not None
    ]
    return _join(node, values, dim, shape, book)


@CHANNEL_RULES.register_module(name='split')
def split(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Equal chunks keep equally many channels; other cuts are by numbers that may be mended.

    Where one number cuts and the last chunk is what is left, that keeps no more than the others.
    """
    value = _single(inputs)
    dim = node.attrs['dim'] % len(value.shape)
    sizes = [shape[dim] for shape in node.shapes]
    stops = np.cumsum(sizes)
    for factor in value.along(dim):
        moved = np.moveaxis(factor, dim, -1)
        reason = f'{node.where} cuts the channels into equal chunks'
        if len(set(sizes)) == 1:
            book.equal_counts(moved.reshape(-1, sizes[0]), reason)
        elif node.source.startswith('SplitBackward'):
            size, last = sizes[0], sizes[-1]
            book.equal_counts(moved[..., :-last].reshape(-1, size), reason)
            ends = [moved[..., :last].reshape(-1, last), moved[..., -last:].reshape(-1, last)]
            book.equal_counts(np.concatenate(ends), reason)
        elif factor.size > factor.shape[dim]:
            for size, stop in zip(sizes, stops, strict=True):
                reason = f'{node.where} cuts every block of channels'
                book.equal_counts(moved[..., stop - size : stop].reshape(-1, size), reason)
    return [
        _moved(value, _cut(dim, stop - size, stop), shape)
        for shape, size, stop in zip(node.shapes, sizes, stops, strict=True)
    ]


def _cut(dim: int, start: int, stop: int, step: int = 1) -> Move:
    def move(factor: IntArray) -> IntArray:
        if factor.shape[dim] == 1:
            return factor
        index = [slice(None)] * factor.ndim
        index[dim] = slice(start, stop, step)
        return factor[tuple(index)]

    return move


@CHANNEL_RULES.register_module(name='slice')
def slice_(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """One of several equal parts keeps as many channels as the others, as a chunk does."""
    value = _single(inputs)
    dim = node.attrs['dim'] % len(value.shape)
    full, size, step = value.shape[dim], node.shapes[0][dim], node.attrs['step']
    start, stop, _ = slice(node.attrs['start'], node.attrs['end']).indices(full)
    for factor in value.along(dim):
        if step != 1:
            book.pin(factor, f'{node.where} takes every {step}th channel')
        elif 0 < size < full and full % size == 0 and start % size == 0:
            reason = f'{node.where} takes one of {full // size} equal parts'
            book.equal_counts(np.moveaxis(factor, dim, -1).reshape(-1, size), reason)
        elif 0 < size < full and factor.size > full:
            part = _cut(dim, start, stop)(factor)
            _equal_blocks(part, dim, book, f'{node.where} takes a part of every block')
    return _moved(value, _cut(dim, start, stop, step), node.shapes[0])


@CHANNEL_RULES.register_module(name='select')
def select(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """One position of a dim; a channel taken by its number pins them all."""
    value = _single(inputs)
    dim = node.attrs['dim'] % len(value.shape)
    _pin_single(value, dim, book, node)
    return _moved(value, _take(dim, node.attrs['index']), node.shapes[0])


@CHANNEL_RULES.register_module(name='unbind')
def unbind(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """All positions of a dim, as ``select``."""
    value = _single(inputs)
    dim = node.attrs['dim'] % len(value.shape)
    _pin_single(value, dim, book, node)
    return [_moved(value, _take(dim, i), shape) for i, shape in enumerate(node.shapes)]


def _take(dim: int, index: int) -> Move:
    return lambda factor: factor.take(index if factor.shape[dim] > 1 else 0, axis=dim)


def _pin_single(value: Value, dim: int, book: LabelBook, node: TraceNode) -> None:
    """Pin factors along ``dim`` alone; blocks of channels along it stay in step by counts."""
    for factor in value.along(dim):
        if axes_of(factor) == (dim,) or book.is_ragged(factor, dim):
            book.pin(factor, f'{node.where} takes channels by their number')
        else:
            rows = np.moveaxis(factor, dim, 0).reshape(factor.shape[dim], -1)
            book.equal_counts(rows, f'{node.where} takes blocks of channels')


@CHANNEL_RULES.register_module(name='flip')
def flip(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """The kept channels come in the other order, as the full ones do."""
    return _moved(_single(inputs), lambda f: np.flip(f, node.attrs['dims']), node.shapes[0])


@CHANNEL_RULES.register_module(name='roll')
def roll(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Positions move; channels must not."""
    value = _single(inputs)
    dims = {dim % len(value.shape) for dim in node.attrs['dims']} or set(range(len(value.shape)))
    factors = without(value, dims, book, f'{node.where} rolls the channels by a fixed number')
    return Value(node.shapes[0], factors, fixed_after(value, factors, book, node))


@CHANNEL_RULES.register_module(name='pad')
def pad(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Padding around the channels adds fixed ones; elsewhere it changes no label."""
    value, widths = _single(inputs), node.attrs['pad']
    rank = len(value.shape)
    fixed = book.fixed(f'is padding of {node.where}')
    around = {rank - 1 - i // 2: widths[i : i + 2] for i in range(0, len(widths), 2)}

    def move(factor: IntArray) -> IntArray:
        amounts = [around.get(d, (0, 0)) if factor.shape[d] > 1 else (0, 0) for d in range(rank)]
        if any(width < 0 for pair in amounts for width in pair):
            book.pin(factor, f'{node.where} crops the channels')
            amounts = [(0, 0)] * rank
            factor = factor[tuple(slice(0, 1) for _ in range(rank))]
        padded = np.pad(factor, amounts, constant_values=fixed)
        for dim, (before, behind) in enumerate(amounts):
            for start, size in ((0, before), (padded.shape[dim] - behind, behind)):
                labels = book.width_of(node.id, dim, start) if size else None
                if labels is not None and axes_of(padded) == (dim,):
                    padded.reshape(-1)[start : start + size] = labels
        return padded

    return _moved(value, move, node.shapes[0])
