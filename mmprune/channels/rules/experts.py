"""Rules of products with one weight per expert: mixtures of experts."""

from __future__ import annotations

from mmprune.channels.labels import IntArray, LabelBook, Statistic, Value, axes_of, pin_all
from mmprune.channels.rules.arithmetic import without
from mmprune.channels.rules.contraction import channels_along, layer_of, matmul
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


@CHANNEL_RULES.register_module(name='grouped_matmul')
def grouped_matmul(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Rows sorted by expert (T, K), or (E, T, K), times a weight of each (E, K, N).

    All experts have the same channels. torch's kernels read runs of 16 bytes, so that channels
    along K, and along N where the weight has them last in memory, go in blocks of so many.
    """
    data, weight = inputs[:2]
    if data is None or weight is None or len(weight.shape) != 3:
        pin_all(inputs, book, f'{node.where} has no weight for each expert')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    inside, outside = channels_along(weight, 1, book), channels_along(weight, 2, book)
    _in_blocks(inside, node.attrs['block'], book)
    if node.attrs['columns_last']:
        _in_blocks(outside, node.attrs['block'], book)
    if len(data.shape) == 3:
        return matmul(node, [data, weight], book)
    for value, dim, what in ((data, 0, 'its rows'), (weight, 0, 'its experts')):
        without(value, {dim}, book, f'{node.where}: {what} are chosen by number')
    for value, dims in ((data, (1,)), (weight, (1,)), (weight, (2,))):
        for factor in value.along(dims[0]):
            if axes_of(factor) != dims:
                book.pin(factor, f'{node.where} multiplies blocks of channels')
    book.unite(inside, channels_along(data, 1, book))
    layer = layer_of(node, weight, book)
    if layer:
        book.add_site(layer, 'in', inside, node.id)
        book.add_site(layer, 'out', outside, node.id)
    if weight.parameter is None:
        book.statistics.append(Statistic(node.module, 'reader', (), inside))
    factors = [outside.reshape(1, -1)] if len(outside) > 1 else []
    result = Value(node.shapes[0], factors, data.fixed)
    book.add_product(layer, node.id, result, 1, [(inside, 1)])
    return result


def _in_blocks(labels: IntArray, block: int, book: LabelBook) -> None:
    """So many neighbours live or die together."""
    if len(labels) % block == 0:
        rows = labels.reshape(-1, block)
        book.unite(rows, rows[:, :1])
