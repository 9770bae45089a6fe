"""Rules of operations on weights: what norms them, looks rows up, or multiplies three ways."""

from __future__ import annotations

import numpy as np

from mmprune.channels.labels import LabelBook, Statistic, Value, axes_of, pin_all
from mmprune.channels.rules.arithmetic import without
from mmprune.channels.rules.contraction import channels_along, layer_of
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


@CHANNEL_RULES.register_module(name='weight_norm')
def weight_norm(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Directions over their norm, times lengths; ``dim`` -1 means one length for all.

    The norm of a subnet is the one of its part of the directions.
    """
    v, g = inputs
    if v is None or g is None:
        pin_all(inputs, book, f'{node.where} has a constant among its weights')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    dim = node.attrs['dim']
    if dim >= 0:
        lengths = {axes_of(factor): factor for factor in g.factors}
        for factor in v.along(dim):
            if axes_of(factor) == (dim,):
                own = lengths.get((dim,), np.full(factor.shape, g.fixed))
                book.unite(factor, own)
                if v.parameter is None:
                    book.statistics.append(Statistic(node.module, 'weight_norm', (), factor))
                else:  # a length of 0 is enough
                    book.unmasked.add((v.parameter, dim))
            elif book.is_ragged(factor, dim):
                book.pin(factor, f'{node.where}: its blocks have a length for each channel')
    return Value(node.shapes[0], v.factors, v.fixed)


@CHANNEL_RULES.register_module(name='embedding')
def embedding(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> list[Value]:
    """Rows of a weight (V, C) by their number, or means of some: (...) to (..., C)."""
    weight, *_ = inputs
    shape = node.shapes[0]
    if weight is None:
        fixed = book.fixed('is looked up in a constant')
        return [Value(other, [], fixed) for other in node.shapes]
    factors = without(weight, {0}, book, f'{node.where}: its rows are looked up by number')
    lead = (1,) * (len(shape) - 1)
    result = Value(shape, [f.reshape(*lead, -1) for f in factors], book.fixed('is looked up'))
    labels = channels_along(result, len(shape) - 1, book)
    book.add_site(layer_of(node, weight, book), 'out', labels, node.id)
    return [result, *(Value(other, [], result.fixed) for other in node.shapes[1:])]


@CHANNEL_RULES.register_module(name='bilinear')
def bilinear(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(n, i) and (n, j) with a weight (o, i, j): sums over i and j give (n, o)."""
    first, weight, second = inputs
    if first is None or weight is None or second is None:
        pin_all(inputs, book, f'{node.where}: its weight or one of its inputs is a constant')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    layer = layer_of(node, weight, book)
    for value, dim in ((first, 1), (second, 2)):
        inside = channels_along(value, 1, book)
        book.unite(inside, channels_along(weight, dim, book))
        book.add_site(layer, 'in', inside, node.id)
        for factor in value.factors:
            if axes_of(factor) != (1,):
                book.pin(factor, f'{node.where} has channels along a dim of its batch')
    out = channels_along(weight, 0, book)
    book.add_site(layer, 'out', out, node.id)
    factors = [out.reshape(1, -1)] if len(out) > 1 else []
    return Value(node.shapes[0], factors, first.fixed)
