"""Rule of fused attention kernels: two matrix products with a softmax between them."""

from __future__ import annotations

from mmprune.channels.labels import LabelBook, Value, meet, pin_all
from mmprune.channels.rules.arithmetic import softmax
from mmprune.channels.rules.contraction import matmul
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def _step(node: TraceNode, op: str, shape: tuple[int, ...], attrs: dict | None = None) -> TraceNode:
    return TraceNode(node.id, op, node.inputs, (shape,), attrs or {}, node.source, node.module)


@CHANNEL_RULES.register_module(name='attention')
def attention(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """softmax(q k^T scale + bias) v, with the heads before the last two dims.

    Where the scale is taken from the width of a head, that width stays: the deployed kernel
    would scale by another number.
    """
    query, key, value, *rest = inputs
    if query is None or key is None or value is None:
        pin_all(inputs, book, f'{node.where} attends to a constant')
        return [Value(shape, [], -1) for shape in node.shapes]
    rank = len(query.shape)
    keys = Value(
        (*key.shape[:-2], key.shape[-1], key.shape[-2]),
        [factor.swapaxes(-1, -2) for factor in key.factors],
        key.fixed,
    )
    shape = (*query.shape[:-1], key.shape[-2])
    weights = matmul(_step(node, 'matmul', shape), [query, keys], book)
    if node.attrs['is_scaled_by_width'] and not book.goes_by_heads(node.id):
        for operand in (query, key):
            for factor in operand.along(rank - 1):
                book.pin(factor, f'{node.where} scales by the width of a head')
    biases = [bias for bias in rest if bias is not None]
    weights = meet([weights, *biases], shape, book, node.where)
    weights = softmax(_step(node, 'softmax', shape, {'dim': -1}), [weights], book)
    result = matmul(_step(node, 'matmul', node.shapes[0]), [weights, value], book)
    return [result, *(Value(other, [], -1) for other in node.shapes[1:])]
