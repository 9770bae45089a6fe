"""Rules of normalisation layers."""

from __future__ import annotations

import numpy as np

from mmprune.channels.labels import (
    LabelBook,
    Size,
    Statistic,
    Value,
    axes_of,
    pin_all,
)
from mmprune.channels.meet import meet
from mmprune.channels.rules.contraction import channels_along, layer_of
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def _as_channels(value: Value, rank: int) -> Value:
    """A (C,) weight or bias seen as (1, C, 1, ...)."""
    shape = (1, *value.shape, *(1,) * (rank - 2))
    return Value(shape, [f.reshape(1, -1, *(1,) * (rank - 2)) for f in value.factors], value.fixed)


def _norm_layer(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> str:
    weights = [v for v in inputs[1:] if v is not None and v.parameter is not None]
    return layer_of(node, weights[0] if weights else None, book)


@CHANNEL_RULES.register_module(name='batch_norm')
def batch_norm(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Statistics per channel, over space and perhaps batch: every channel stands for itself."""
    data = inputs[0]
    if data is None:
        pin_all(inputs, book, f'{node.where} normalises a constant')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    rank = len(data.shape)
    values = [data] + [_as_channels(v, rank) for v in inputs[1:] if v is not None]
    result = meet(values, node.shapes[0], book, node.where)
    labels = channels_along(result, 1, book)
    book.add_site(_norm_layer(node, inputs, book), 'norm', labels, node.id)
    if node.op == 'batch_norm':  # of a weight, whose inputs are where an image has space
        _over_kept('batch_norm', result, {0, *range(2, rank)}, book, node)
    return result


@CHANNEL_RULES.register_module(name='group_norm')
def group_norm(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Statistics over the kept channels of every group, of which each keeps equally many.

    Where a group is one channel or a head that goes whole, or the user wants it so, groups go.
    """
    data = inputs[0]
    result = batch_norm(node, inputs, book)
    groups = node.attrs['groups']
    labels = channels_along(result, 1, book)
    others = [Value(shape, [], -1) for shape in node.shapes[1:]]
    if data is None:
        return [result, *others]
    rows = labels.reshape(groups, -1)
    are_whole = rows.min() >= 0 and (rows == rows[:, :1]).all()
    if groups > 1 and (are_whole or book.group_norm == 'groups'):
        book.unite(rows, rows[:, :1])
        factors = (rows[:, 0],)
        book.know_size('num_groups', None, Size(node.module, (groups,), factors, 0, True))
    elif groups > 1:
        book.equal_counts(rows, f'{node.where} has {groups} equal groups')
    _over_kept('group_norm', result, {1}, book, node)
    return [result, *others]


@CHANNEL_RULES.register_module(name=['layer_norm', 'rms_norm'])
def over_last_dims(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Statistics, or the mean of squares, over the kept channels of the last dims."""
    if inputs[0] is None:
        pin_all(inputs, book, f'{node.where} normalises a constant')
        return [Value(shape, [], book.fixed(f'comes from {node.where}')) for shape in node.shapes]
    values = [value for value in inputs if value is not None]
    result = meet(values, node.shapes[0], book, node.where)
    rank, normalized = len(result.shape), len(node.attrs['normalized_shape'])
    inner = set(range(rank - normalized, rank))
    for factor in result.factors:
        varying = set(axes_of(factor))
        if varying & inner and not varying <= inner:
            rows = factor.reshape(-1, int(np.prod(factor.shape[-normalized:])))
            book.equal_counts(rows, f'{node.where} normalises blocks of channels')
        if len(varying & inner) > 1:
            book.pin(factor, f'{node.where} normalises over several dims of channels')
    channels = [dim for dim in inner if result.along(dim)]
    labels = channels_along(result, channels[0] if len(channels) == 1 else rank - 1, book)
    book.add_site(_norm_layer(node, inputs, book), 'norm', labels, node.id)
    _over_kept(node.op, result, inner, book, node)
    for dim in inner:
        factors = tuple(result.along(dim))
        if factors:
            size = Size(node.module, result.shape, factors, dim, True)
            book.know_size('normalized_shape', dim - rank + normalized, size)
    return [result, *(Value(shape, [], -1) for shape in node.shapes[1:])]


def _over_kept(kind: str, value: Value, dims: set[int], book: LabelBook, node: TraceNode) -> None:
    """Note that statistics are taken over the channels along ``dims``."""
    for factor in value.factors:
        if dims & set(axes_of(factor)):
            book.statistics.append(Statistic(node.module, kind, (), factor, node.id))
