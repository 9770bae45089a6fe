"""Rules of operations that shuffle channels, among themselves or with pixels."""

from __future__ import annotations

import numpy as np

from mmprune.channels.labels import LabelBook, Value, axes_of
from mmprune.channels.rules.arithmetic import without
from mmprune.channels.rules.single import of_one
from mmprune.trace.trace_graph import TraceNode


@of_one('channel_shuffle')
def channel_shuffle(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """(N, G C, ...) as (N, C G, ...): groups keep the same places, or equally many."""
    groups = node.attrs['groups']
    factors = []
    for factor in value.factors:
        if factor.shape[1] > 1:
            blocks = factor.reshape(factor.shape[0], groups, -1, *factor.shape[2:])
            if node.id in book.ways.loose:
                rows = np.moveaxis(blocks, 2, -1).reshape(-1, blocks.shape[2])
                book.equal_counts(rows, f'{node.where} cuts the channels into blocks')
            else:
                book.unite(blocks, blocks[:, :1])
            factor = blocks.swapaxes(1, 2).reshape(factor.shape)
        factors.append(factor)
    return Value(value.shape, factors, value.fixed)


@of_one('unfold', 'pixel_unshuffle')
def windows_to_channels(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """(..., C, H, W) to (..., C k k, L), or to (..., C r r, H / r, W / r): one becomes several."""
    shape, dim = node.shapes[0], len(value.shape) - 3
    times = shape[dim] // value.shape[dim]
    factors = []
    for factor in without(value, {dim + 1, dim + 2}, book, f'{node.where} cuts windows'):
        own = factor.repeat(times, axis=dim) if factor.shape[dim] > 1 else factor
        factors.append(own.reshape(*own.shape[: dim + 1], *(1,) * (len(shape) - dim - 1)))
    return Value(shape, factors, value.fixed)


@of_one('fold', 'pixel_shuffle')
def channels_to_windows(node: TraceNode, value: Value, book: LabelBook) -> Value:
    """The other way: the channels that become one go together."""
    shape = node.shapes[0]
    dim = len(shape) - 3
    space = set(range(dim + 1, len(value.shape)))
    factors = []
    for factor in without(value, space, book, f'{node.where} joins windows of channels'):
        if factor.shape[dim] > 1:
            rows = factor.reshape(*factor.shape[:dim], shape[dim], -1)
            book.unite(rows, rows[..., :1])
            factor = rows[..., 0]
        factors.append(factor.reshape(*factor.shape[: dim + 1], 1, 1))
    return Value(shape, [f for f in factors if axes_of(f)], value.fixed)
