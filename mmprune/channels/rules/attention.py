"""Rules of fused attention kernels and of distances: products of rows with rows."""

from __future__ import annotations

from dataclasses import replace

from mmprune.channels.labels import LabelBook, Statistic, Value, pin_all
from mmprune.channels.meet import meet
from mmprune.channels.rules.arithmetic import softmax
from mmprune.channels.rules.contraction import matmul
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def _shared_by(heads: int, side: Value) -> Value:
    """Keys or values of fewer heads than the queries have, each for as many queries in a row."""
    if len(side.shape) < 3 or side.shape[-3] in (1, heads):
        return side
    times, dim = heads // side.shape[-3], len(side.shape) - 3
    shape = (*side.shape[:dim], heads, *side.shape[dim + 1 :])
    factors = [f.repeat(times, axis=dim) if f.shape[dim] > 1 else f for f in side.factors]
    return Value(shape, factors, side.fixed)


def _constants(node: TraceNode, shape: tuple[int, ...], book: LabelBook) -> list[Value]:
    """A mask with a part of its own for every head; others do not care how many there are."""
    return [
        Value(other, [], book.fixed('is a constant'))
        for other in node.attrs.get('constant_shapes', ())
        if len(other) == len(shape) and other[-2:] == shape[-2:] and other[-3:-2] == shape[-3:-2]
    ]


def _turned(rows: Value) -> Value:
    """The last two dims in the other order."""
    shape = (*rows.shape[:-2], rows.shape[-1], rows.shape[-2])
    return Value(shape, [factor.swapaxes(-1, -2) for factor in rows.factors], rows.fixed)


@CHANNEL_RULES.register_module(name='cdist')
def cdist(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Distances of rows (..., n, k) from rows (..., m, k): sums over k, as of a product."""
    left, right = inputs[:2]
    rows = left.along(len(left.shape) - 1) if left else []
    book.statistics += [Statistic(node.module, 'distance', (), f, node.id) for f in rows]
    pair = [left, right and _turned(right)]
    return matmul(node, pair, replace(book, products=[], sites=[]))


@CHANNEL_RULES.register_module(name='attention')
def attention(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """softmax(q k^T scale + bias) v, with the heads before the last two dims.

    Where the scale is taken from the width of a head, it is that of the kept channels.
    """
    query, key, value, *rest = inputs
    if query is None or key is None or value is None:
        pin_all(inputs, book, f'{node.where} attends to a constant')
        return [Value(shape, [], -1) for shape in node.shapes]
    rank = len(query.shape)
    heads = query.shape[-3] if rank > 2 else 1
    key, value = (_shared_by(heads, side) for side in (key, value))
    keys = _turned(key)
    shape = (*query.shape[:-1], key.shape[-2])
    weights = matmul(replace(node, shapes=(shape,)), [query, keys], book)
    if node.attrs['is_scaled_by_width']:
        widths = query.along(rank - 1)
        book.statistics += [Statistic(node.module, 'attention', (), factor) for factor in widths]
    biases = [bias for bias in rest if bias is not None] or _constants(node, shape, book)
    weights = meet([weights, *biases], shape, book, node.where)
    weights = softmax(replace(node, shapes=(shape,), attrs={'dim': -1}), weights, book)
    result = matmul(replace(node, shapes=node.shapes[:1]), [weights, value], book)
    return [result, *(Value(other, [], -1) for other in node.shapes[1:])]
