"""Rules of operations that shuffle channels, among themselves or with pixels."""

from __future__ import annotations

import numpy as np

from mmprune.channels.labels import LabelBook, Value, axes_of
from mmprune.channels.rules.arithmetic import without
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


@CHANNEL_RULES.register_module(name='channel_shuffle')
def channel_shuffle(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(N, G C, ...) as (N, C G, ...): groups keep the same places, or equally many."""
    (value,) = (v for v in inputs if v is not None)
    groups = node.attrs['groups']
    factors = []
    for factor in value.factors:
        if factor.shape[1] > 1:
            blocks = factor.reshape(factor.shape[0], groups, -1, *factor.shape[2:])
            if node.id in book.loose:
                rows = np.moveaxis(blocks, 2, -1).reshape(-1, blocks.shape[2])
                book.equal_counts(rows, f'{node.where} cuts the channels into blocks')
            else:
                book.unite(blocks, blocks[:, :1])
            factor = blocks.swapaxes(1, 2).reshape(factor.shape)
        factors.append(factor)
    return Value(value.shape, factors, value.fixed)


@CHANNEL_RULES.register_module(name='pixel_shuffle')
def pixel_shuffle(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(..., C r r, H, W) to (..., C, H r, W r): the r r channels of one output go together."""
    (value,) = (v for v in inputs if v is not None)
    factor = node.attrs['factor']
    channels = node.shapes[0][-3]
    factors = []
    for labels in value.factors:
        if axes_of(labels) != (len(value.shape) - 3,):
            book.pin(labels, f'{node.where} shuffles pixels of channels')
            continue
        rows = labels.reshape(channels, factor * factor)
        book.unite(rows, rows[:, :1])
        factors.append(rows[:, 0].reshape((1,) * (len(value.shape) - 3) + (channels, 1, 1)))
    return Value(node.shapes[0], [f for f in factors if axes_of(f)], value.fixed)


@CHANNEL_RULES.register_module(name='pixel_unshuffle')
def pixel_unshuffle(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(..., C, H r, W r) to (..., C r r, H, W): every channel becomes r r of them."""
    (value,) = (v for v in inputs if v is not None)
    factor = node.attrs['factor']
    rank = len(value.shape)
    factors = without(value, {rank - 2, rank - 1}, book, f'{node.where} shuffles pixels')
    repeated = [
        np.repeat(f, factor * factor, axis=rank - 3) if f.shape[rank - 3] > 1 else f
        for f in factors
    ]
    return Value(node.shapes[0], repeated, value.fixed)
