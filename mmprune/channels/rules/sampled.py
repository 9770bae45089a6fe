"""Rules of operations that read data at places which are data themselves: boxes, offsets."""

from __future__ import annotations

from collections.abc import Iterable

from mmprune.channels.labels import LabelBook, Value, pin_all
from mmprune.channels.meet import meet
from mmprune.channels.rules.arithmetic import per_channel, without
from mmprune.channels.rules.contraction import channels_along, conv
from mmprune.channels.rules.shapes import view
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def _are_places(values: Iterable[Value | None], book: LabelBook, node: TraceNode) -> None:
    pin_all(values, book, f'{node.where} samples by it')


@CHANNEL_RULES.register_module(name='regions')
def regions(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Parts (K, C, h, w) of images (N, C, H, W) in K boxes."""
    value, *boxes = inputs
    _are_places(boxes, book, node)
    fixed = book.fixed(f'comes from {node.where}')
    if value is None:
        return Value(node.shapes[0], [], fixed)
    reason = f'{node.where} reads regions of the channels'
    value.factors = per_channel(value, set(range(2, len(value.shape))), book, reason)
    return Value(node.shapes[0], without(value, {0}, book, reason), fixed)


@CHANNEL_RULES.register_module(name='kept')
def kept(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Channels of what a module gives by numbers that are stored, and cut where channels go."""
    shape, dim = node.shapes[0], node.attrs['dim']
    value, places = inputs
    assert places is not None
    sizes = [-1 if d == dim else 1 for d in range(len(shape))]
    factors = [channels_along(places, 0, book).reshape(sizes)]
    if value is not None:
        factors += without(value, {dim}, book, f'{node.where} picks channels by number')
    return Value(shape, factors, book.fixed('is a constant') if value is None else value.fixed)


@CHANNEL_RULES.register_module(name='deform_conv')
def deform_conv(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A convolution of data that are read where other inputs say, for each block of channels."""
    data, rest = inputs[0], inputs[1:]
    places, weights = rest[: node.attrs['places']], rest[node.attrs['places'] :]
    _are_places(places, book, node)
    result = conv(node, [data, *weights], book)
    blocks = node.attrs['blocks']
    if data is not None and blocks > 1:
        rows = channels_along(data, 1, book).reshape(blocks, -1)
        book.equal_counts(rows, f'{node.where} reads {blocks} blocks of equal size')
    return result


@CHANNEL_RULES.register_module(name='deform_attention')
def deform_attention(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Values (n, keys, heads, c) at places (n, queries, heads, ...), in weighted sums of them.

    The result is (n, queries, heads c). Each head has places of its own, so all of them stay.
    """
    shape, (value, _, _, *others) = node.shapes[0], inputs
    fixed = book.fixed(f'comes from {node.where}')
    if value is None:
        pin_all(others, book, f'{node.where} attends to a constant')
        return Value(shape, [], fixed)
    _are_places(others, book, node)
    reason = f'{node.where} looks its keys up by number'
    full = (*shape[:2], *value.shape[2:])
    sides = [
        Value((1, 1, *full[2:]), without(value, {0, 1}, book, reason), value.fixed),
        Value((*full[:3], 1), [], fixed),
    ]
    heads = meet(sides, full, book, node.where)
    return view(node, heads, book)
