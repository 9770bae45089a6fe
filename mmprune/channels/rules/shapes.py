"""Rules of operations that move data: labels move as the data does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from mmprune.channels.labels import (
    IntArray,
    LabelBook,
    Value,
    axes_of,
    squeeze_constant,
)
from mmprune.channels.rules.single import of_one
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode

Move = Callable[[IntArray], IntArray]


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


@of_one('view')
def view(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """A dim that is cut in two keeps the same number of channels in every block.

    Blocks may be joined again in the order in which they were cut. In another order (a shuffle)
    they may where it is known what a smaller network does, see ``Arrangement``; elsewhere the
    blocks live or die as a whole, or all lose the same channels.
    """
    new = node.shapes[0]
    blocks = _blocks(value.shape, new)
    factors: list[tuple[set[int], IntArray]] = []
    for factor in value.factors:
        factor = _in_order(factor, blocks, book, node)
        full, target = list(factor.shape), [1] * len(new)
        for old_dims, new_dims in blocks:
            varying = [dim for dim in old_dims if factor.shape[dim] > 1]
            if varying:
                for dim in old_dims:
                    full[dim] = value.shape[dim]
                for dim in new_dims:
                    target[dim] = new[dim]
        moved = squeeze_constant(np.broadcast_to(factor, full).reshape(target))
        axes = axes_of(moved)
        if len(axes) > len(axes_of(factor)):
            _equal_blocks(moved, axes[-1], book, f'{node.where} cuts the channels into blocks')
        elif len(axes) > 1 and (ragged := book.ragged_dim(factor)) is not None:
            new_dims = next(new_dims for old_dims, new_dims in blocks if ragged in old_dims)
            book.mark_ragged(moved, max(dim for dim in axes if dim in new_dims))
        if axes:
            factors.append((set(axes_of(factor)), moved))
    return Value(new, _one_per_dim(factors, book, node), value.fixed)


def _in_order(
    factor: IntArray, blocks: list[tuple[range, range]], book: LabelBook, node: TraceNode
) -> IntArray:
    """What is left of ``factor`` where dims are joined in another order than they were cut in."""
    for old_dims, new_dims in blocks if node.id not in book.ways.loose else ():
        varying = [dim for dim in old_dims if factor.shape[dim] > 1]
        if len(varying) < 2 or len(new_dims) >= len(old_dims):
            continue
        ragged = book.ragged_dim(factor)
        if ragged is None:
            book.unite_along(factor, varying[:-1])
        elif ragged != varying[-1]:
            factor = book.whole_or_alike(factor, ragged)
    return factor


def _one_per_dim(
    factors: list[tuple[set[int], IntArray]], book: LabelBook, node: TraceNode
) -> list[IntArray]:
    """Of factors whose dims were joined in part, the one with most channels; others are pinned.

    Those that run along one dim now may do so until it is cut again (mixtures of weights).
    ``factors`` are pairs of the dims that a factor varied along before, and its labels now.
    """
    if len(factors) < 2:
        return [factor for _, factor in factors]
    chosen: list[tuple[set[int], IntArray]] = []
    for before, factor in sorted(factors, key=lambda pair: -len(np.unique(pair[1]))):
        joined = [
            other
            for dims, other in chosen
            if not dims & before
            and set(axes_of(other)) & set(axes_of(factor))
            and (axes_of(other) != axes_of(factor) or len(axes_of(factor)) > 1)
        ]
        if joined:
            book.pin(factor, f'{node.where} joins it with other channels in one dim')
        else:
            chosen.append((before, factor))
    return [factor for _, factor in chosen]


def _equal_blocks(factor: IntArray, dim: int, book: LabelBook, reason: str) -> None:
    """Equally many channels along ``dim`` at every position of the other dims."""
    book.equal_counts(np.moveaxis(factor, dim, -1).reshape(-1, factor.shape[dim]), reason)


@of_one('expand')
def expand(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """A broadcast dim is constant, or as wide as what it was given the size of."""
    shape = node.shapes[0]
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
    """A constant as wide as what it was given the sizes of, or as what it is in the likeness of.

    Along its channels it is the same, or an identity, as which a smaller network builds it.
    """
    (source,), shape = inputs, node.shapes[0]
    is_alike = source is not None and source.shape == shape
    factors = list(source.factors) if source and is_alike else _as_wide(node, book)
    varying = set(node.attrs['varying'])
    if node.attrs['is_identity']:
        rows = [factor.ravel() for factor in factors if axes_of(factor) in ((0,), (1,))]
        if len(rows) == 2:
            book.unite(*rows)
        else:
            varying |= {0, 1}
    for factor in factors:
        if varying & set(axes_of(factor)):
            book.pin(factor, 'is a constant')
    factors = [factor for factor in factors if not varying & set(axes_of(factor))]
    return Value(shape, factors, book.fixed('is a constant'))


@of_one('repeat')
def repeat(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """A dim repeated r times holds r equal blocks, which may be as many as there are channels."""
    shape, repeats = node.shapes[0], node.attrs['repeats']
    lead = (1,) * (len(shape) - len(value.shape))

    def tile(factor: IntArray) -> IntArray:
        factor = factor.reshape(lead + factor.shape)
        times = [r if s > 1 else 1 for r, s in zip(repeats, factor.shape, strict=True)]
        return np.tile(factor, times)

    result = _moved(value, tile, shape)
    for factor in _as_wide(node, book):
        (dim,) = axes_of(factor)
        each = 1 if dim < len(lead) else value.shape[dim - len(lead)]
        if not result.along(dim):
            blocks = np.repeat(factor.ravel()[::each], each)
            result.factors.append(blocks.reshape(factor.shape))
    return result


@of_one('transpose')
def transpose(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """Two dims change places."""
    dim0, dim1 = node.attrs['dim0'], node.attrs['dim1']
    if len(node.shapes[0]) < 2:
        return value
    return _moved(value, lambda f: f.swapaxes(dim0, dim1), node.shapes[0], True)


@of_one('permute')
def permute(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """Dims change places."""
    dims = node.attrs['dims']
    return _moved(value, lambda f: f.transpose(dims), node.shapes[0], True)


@of_one('split')
def split(node: TraceNode, value: Value, book: LabelBook) -> list[Value]:
    """Equal chunks keep equally many channels; other cuts are by numbers that may be mended.

    Where one number cuts and the last chunk is what is left, that keeps no more than the others.
    """
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


@of_one('slice')
def slice_(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """One of several equal parts keeps as many channels as the others, as a chunk does."""
    dim = node.attrs['dim'] % len(value.shape)
    full, size, step = value.shape[dim], node.shapes[0][dim], node.attrs['step']
    if step != 1:  # a block of channels that goes whole has all of them
        value = replace(value, factors=[book.whole_if_blocks(f, dim) for f in value.factors])
    start, stop, _ = slice(node.attrs['start'], node.attrs['end']).indices(full)
    for factor in value.along(dim):
        part = _cut(dim, start, stop)(factor)
        if part.max(initial=-1) < 0:
            continue  # what was padded: none of it is a channel
        if step != 1:
            book.pin(factor, f'{node.where} takes every {step}th channel')
        elif 0 < size < full and full % size == 0 and start % size == 0:
            reason = f'{node.where} takes one of {full // size} equal parts'
            book.equal_counts(np.moveaxis(factor, dim, -1).reshape(-1, size), reason)
        elif 0 < size < full and factor.size > full:
            _equal_blocks(part, dim, book, f'{node.where} takes a part of every block')
    return _moved(value, _cut(dim, start, stop, step), node.shapes[0])


@of_one('select')
def select(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """One position of a dim; a channel taken by its number pins them all."""
    dim = node.attrs['dim'] % len(value.shape)
    value = _by_number(value, dim, book, node)
    return _moved(value, _take(dim, node.attrs['index']), node.shapes[0])


@of_one('unbind')
def unbind(node: TraceNode, value: Value, book: LabelBook) -> list[Value]:
    """All positions of a dim, as ``select``."""
    dim = node.attrs['dim'] % len(value.shape)
    value = _by_number(value, dim, book, node)
    return [_moved(value, _take(dim, i), shape) for i, shape in enumerate(node.shapes)]


def _take(dim: int, index: int) -> Move:
    return lambda factor: factor.take(index if factor.shape[dim] > 1 else 0, axis=dim)


def _by_number(value: Value, dim: int, book: LabelBook, node: TraceNode) -> Value:
    """Pin factors along ``dim`` alone; blocks of channels along it stay in step by counts.

    Where it is the channels of every block that are taken by their number, blocks go whole.
    """
    factors = []
    for factor in value.factors:
        if axes_of(factor) == (dim,):
            book.pin(factor, f'{node.where} takes channels by their number')
        elif book.is_ragged(factor, dim):
            book.unite_along(factor, [dim])
            factor = factor.take([0], axis=dim)
        elif factor.shape[dim] > 1:
            rows = np.moveaxis(factor, dim, 0).reshape(factor.shape[dim], -1)
            book.equal_counts(rows, f'{node.where} takes blocks of channels')
        factors.append(factor)
    return Value(value.shape, factors, value.fixed)


@of_one('flip')
def flip(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """The kept channels come in the other order, as the full ones do."""
    return _moved(value, lambda f: np.flip(f, node.attrs['dims']), node.shapes[0])


@of_one('pad')
def pad(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """Padding around the channels adds fixed ones; elsewhere it changes no label.

    A block of channels that goes whole takes its padding along.
    """
    widths = node.attrs['pad']
    rank = len(value.shape)
    fixed = book.fixed(f'is padding of {node.where}')
    around = {rank - 1 - i // 2: widths[i : i + 2] for i in range(0, len(widths), 2)}

    def move(factor: IntArray) -> IntArray:
        for dim in around:
            factor = book.whole_if_blocks(factor, dim)
        amounts = [around.get(d, (0, 0)) if factor.shape[d] > 1 else (0, 0) for d in range(rank)]
        if any(width < 0 for pair in amounts for width in pair):
            book.pin(factor, f'{node.where} crops the channels')
            amounts = [(0, 0)] * rank
            factor = factor[tuple(slice(0, 1) for _ in range(rank))]
        padded = np.pad(factor, amounts, constant_values=fixed)
        ragged = book.ragged_dim(factor)
        if ragged is not None and not any(any(a) for d, a in enumerate(amounts) if d != ragged):
            book.mark_ragged(padded, ragged)
        for dim, (before, behind) in enumerate(amounts):
            for start, size in ((0, before), (padded.shape[dim] - behind, behind)):
                labels = book.width_of(node.id, dim, start) if size else None
                if labels is not None and axes_of(padded) == (dim,):
                    padded.reshape(-1)[start : start + size] = labels
        return padded

    return _moved(value, move, node.shapes[0])
