"""Rules of convolutions and matrix products: a sum over one dim of both factors."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from mmprune.channels.labels import KERNEL, IntArray, LabelBook, Statistic, Value, axes_of, pin_all
from mmprune.channels.meet import decide_blocks, meet, unjoined, without_joined
from mmprune.channels.rules.arithmetic import constants_of, per_channel
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


def layer_of(node: TraceNode, weight: Value | None, book: LabelBook) -> str:
    """The layer that a product belongs to: the owner of its weight, else where it ran.

    Of the owners of a tied weight it is the one that ran, if any of them did. What the
    network itself owns and runs is called after the weight.
    """
    if weight is None or weight.parameter is None:
        return node.module
    names = book.aliases.get(weight.parameter, (weight.parameter,))
    owners = [name.rpartition('.')[0] for name in names]
    owner = node.module if node.module in owners else owners[0]
    return owner or node.module or names[0]


def channels_along(value: Value, dim: int, book: LabelBook) -> IntArray:
    """Labels along ``dim``, one per position; fixed ones where there is no factor."""
    for factor in value.along(dim):
        if axes_of(factor) == (dim,):
            return factor.ravel()
    return np.full(value.shape[dim], value.fixed)


@CHANNEL_RULES.register_module(name='conv')
def conv(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Data (N, C, *space); weight (O, C / groups, *kernel), transposed (C, O / groups, ...).

    Blocks of channels that lie along N (heads, each of which is convolved alike) stay there, and
    channels along a dim at each place of which the same is done (tokens as input channels).
    """
    data, weight, bias = (*inputs, None)[:3]
    if data is None and weight is not None:
        data = _constant_data(node, len(weight.shape), book)
    if weight is None or data is None:
        pin_all(inputs, book, f'{node.where}: its weight or its input is a constant')
        return Value(node.shapes[0], [], book.fixed(f'comes from {node.where}'))
    groups, transposed = node.attrs['groups'], node.attrs['transposed']
    data, summed, factors = _data_of(node, data, weight, book)
    inside = channels_along(data, 1, book)
    if weight.parameter is None:
        # A function of a masked weight need not be 0 where the weight is.
        book.statistics += [Statistic(node.module, 'reader', (), f, node.id) for f in data.along(1)]
    out = (
        _transposed_conv(weight, inside, groups, book, node)
        if transposed
        else _plain_conv(weight, inside, groups, book, node)
    )
    if bias is not None:
        book.unite(out, channels_along(bias, 0, book))
    layer = layer_of(node, weight, book)
    for read in (inside, *summed.values()):
        book.add_site(layer, 'in', read, node.id)
    book.add_site(layer, 'out', out, node.id)
    fixed = book.fixed('has positions there, not channels')
    if groups > 1 and len(inside) == groups and inside.max() < 0:
        fixed = data.fixed  # depthwise: what comes out is as fixed as what goes in
    elif len(out) > 1:
        factors.append(out.reshape(1, -1, *(1,) * (len(node.shapes[0]) - 2)))
    result = Value(node.shapes[0], factors, fixed)
    _count_conv(node, data, weight, inside, result, layer, book, list(summed.values()))
    return result


def _data_of(
    node: TraceNode, data: Value, weight: Value, book: LabelBook
) -> tuple[Value, dict[int, IntArray], list[IntArray]]:
    """What a convolution reads: its data, channels that the kernel sums, those beside the channels.

    What it does with positions in space is noted.
    """
    summed: dict[int, IntArray] = {}
    is_plain = all([axes_of(factor) == (1,) for factor in data.factors])  # as most are
    if not is_plain:
        data, summed = _summed_with_kernel(node, data, weight, book)
    space = set(range(2, len(data.shape)))
    for factor in [f for dim in space - summed.keys() for f in weight.along(dim)]:
        book.pin(factor, KERNEL)
    if is_plain:
        return data, summed, []
    along = f'{node.where} convolves along the channels'
    is_moved = node.attrs['transposed']
    apart = {dim for dim in space if not is_moved and _is_pointwise(node, data, weight, dim)}
    data = replace(data, factors=per_channel(data, space - apart, book, along))
    data = _blocks_apart(data, book)
    beside = {(0,), *((dim,) for dim in apart)}
    for factor in data.factors:
        if axes_of(factor) not in {(1,), *beside}:
            book.pin(factor, along)
    return data, summed, [factor for factor in data.factors if axes_of(factor) in beside]


def _summed_with_kernel(
    node: TraceNode, data: Value, weight: Value, book: LabelBook
) -> tuple[Value, dict[int, IntArray]]:
    """Channels along dims of space that a kernel covers, and ``data`` without them.

    The kernel is as long as the data and moves nowhere (words of a text, whose features are
    the width of an image): it reads them as a linear layer does.
    """
    summed: dict[int, IntArray] = {}
    if node.attrs['groups'] > 1 or node.attrs['transposed']:
        return data, summed
    for dim in range(2, len(data.shape)):
        sizes = weight.shape[dim], data.shape[dim], node.shapes[0][dim]
        read = [f for f in data.along(dim) if axes_of(f) == (dim,)]
        if read and sizes == (read[0].size, read[0].size, 1) and not _padding(node, dim):
            summed[dim] = read[0].ravel()
            book.unite(summed[dim], channels_along(weight, dim, book))
    kept = [f for f in data.factors if axes_of(f) not in {(dim,) for dim in summed}]
    return replace(data, factors=kept), summed


def _padding(node: TraceNode, dim: int) -> int:
    """How many places are added before and behind; 1 where that is not known."""
    padding = node.attrs.get('padding') or (1,)
    return padding[min(dim - 2, len(padding) - 1)]


def _is_pointwise(node: TraceNode, data: Value, weight: Value, dim: int) -> bool:
    """Whether a convolution computes each place along a dim of what is at this place alone."""
    is_one = weight.shape[dim] == 1 and not _padding(node, dim)
    return is_one and data.shape[dim] == node.shapes[0][dim]


def _blocks_apart(data: Value, book: LabelBook) -> Value:
    """``data`` with whole blocks along its first dim, or the same channels in each of them."""
    factors = []
    for factor in data.factors:
        if axes_of(factor) == (0, 1):
            factor = book.whole_or_alike(factor, 1)
        factors.append(factor)
    return replace(data, factors=factors)


def _constant_data(node: TraceNode, rank: int, book: LabelBook) -> Value | None:
    """The constant that a convolution was given as its data, such as a fixed input."""
    shapes = [s for s in node.attrs.get('constant_shapes', ()) if len(s) == rank]
    return Value(shapes[0], [], book.fixed('is a constant')) if len(shapes) == 1 else None


def _count_conv(
    node: TraceNode,
    data: Value,
    weight: Value,
    inside: IntArray,
    result: Value,
    layer: str,
    book: LabelBook,
    summed: list[IntArray],
) -> None:
    """MACs of a convolution: every output element sums over its group's inputs and the kernel.

    A transposed one is counted from its input elements, each of which is spread over its
    group's outputs and the kernel.
    """
    groups, transposed = node.attrs['groups'], node.attrs['transposed']
    kernel = prod(weight.shape[2:]) // prod(map(len, summed))
    counts = [(inside, groups), *((labels, 1) for labels in summed)]
    if _loses_groups(groups, inside, channels_along(result, 1, book)):
        # Whole groups go, and those that stay have as many inputs as before.
        kernel, counts = kernel * len(inside) // groups, []
    if not transposed:
        book.add_product(layer, node.id, result, kernel, counts)
        return
    space = data.shape[0] * prod(data.shape[2:])
    flat = Value((space, result.shape[1]), [f.reshape(1, -1) for f in result.factors])
    book.add_product(layer, node.id, flat, kernel, counts)


def _plain_conv(
    weight: Value, inside: IntArray, groups: int, book: LabelBook, node: TraceNode
) -> IntArray:
    """Unite input channels with the weight's inputs; return the labels of the outputs."""
    outputs, per_group = weight.shape[:2]
    out = channels_along(weight, 0, book)
    # Where whole groups go, the columns of a group have come to be one with its rows.
    if per_group > 1 and (weight.along(1) or not _loses_groups(groups, inside, out)):
        columns = _weight_inputs(weight)
        per_block = columns if len(columns) == 1 else columns[:: outputs // groups]
        book.unite(per_block, inside.reshape(groups, per_group))
    _keep_groups(inside, out, groups, book, node)
    return out


def _loses_groups(groups: int, inside: IntArray, out: IntArray) -> bool:
    """Whether whole groups go, since each has one input, or one output that is a channel."""
    return groups > 1 and (groups == len(inside) or (groups == len(out) and out.max() >= 0))


def _keep_groups(
    inside: IntArray, out: IntArray, groups: int, book: LabelBook, node: TraceNode
) -> None:
    """Every group keeps equally many inputs and outputs; where it has but one, whole groups go."""
    if groups == 1:
        return
    rows, columns = out.reshape(groups, -1), inside.reshape(groups, -1)
    if _loses_groups(groups, inside, out):
        book.unite(rows, columns[:, :1])
        book.unite(columns, columns[:, :1])
        return
    for labels in (columns, rows):
        book.equal_counts(labels, f'{node.where} has {groups} groups of equal size')


def _weight_inputs(weight: Value) -> IntArray:
    """Labels of the weight's inputs, (O or 1, C / groups)."""
    for factor in weight.along(1):
        if set(axes_of(factor)) <= {0, 1}:
            return factor.reshape(factor.shape[:2])
    return np.full((1, weight.shape[1]), weight.fixed)


def _transposed_conv(
    weight: Value, inside: IntArray, groups: int, book: LabelBook, node: TraceNode
) -> IntArray:
    inputs, per_group = weight.shape[:2]
    rows = channels_along(weight, 0, book)
    book.unite(rows, inside)
    columns = _weight_inputs(weight)
    if groups == 1:
        return columns[0] if len(columns) == 1 else np.full(per_group, weight.fixed)
    if groups in (inputs, per_group * groups):
        if weight.along(1):
            book.unite(columns, rows[:, None])
        out = np.repeat(rows.reshape(groups, -1)[:, 0], per_group)
    else:
        out = np.broadcast_to(columns, (inputs, per_group))[:: inputs // groups].ravel()
    _keep_groups(inside, out, groups, book, node)
    return out


@CHANNEL_RULES.register_module(name='matmul')
def matmul(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(..., n, k) times (..., k, m)."""
    (left, right), full = inputs, node.shapes[0]
    if left is None and right is not None:
        left = Value((*full[:-1], right.shape[-2]), [], book.fixed('is a constant'))
    elif right is None and left is not None:
        right = Value((*full[:-2], left.shape[-1], full[-1]), [], book.fixed('is a constant'))
    if left is None or right is None:
        return Value(full, [], book.fixed('is a constant'))
    rank = len(node.shapes[0])
    contracted, kept_left = _by_axis(left.factors, rank - 1)
    summed, kept_right = _by_axis(right.factors, rank - 2)
    contracted, summed = (unjoined(f, book, node.where) for f in (contracted, summed))
    is_right, weight = _weight_of(node, left, right, book)
    blocks = _unite_contracted(contracted, left, summed, right, book, node, weight is None)
    sides, joined = [], []
    for value, factors, own, dim in (
        (left, kept_left, blocks[0], rank - 1),
        (right, kept_right, blocks[1], rank - 2),
    ):
        factors, others = without_joined(factors)
        joined += others
        sides.append(Value((*full[:dim], 1, *full[dim + 1 :]), factors + own, value.fixed))
    result = meet(sides, node.shapes[0], book, node.where)
    result.factors += joined
    layer = layer_of(node, weight, book)
    if weight is not None:
        inside = channels_along(left, rank - 1, book)
        if layer:
            book.add_site(layer, 'in', inside, node.id)
            out_dim = rank - 1 if is_right else rank - 2
            book.add_site(layer, 'out', channels_along(result, out_dim, book), node.id)
        if is_right and weight.parameter is None:
            book.statistics.append(Statistic(node.module, 'reader', (), inside, node.id))
    summed_over = max([*contracted, *summed], key=np.size, default=None)
    size = left.shape[-1]
    counts = [] if summed_over is None else [(summed_over.ravel(), summed_over.size // size)]
    book.add_product(layer, node.id, result, 1 if counts else size, counts)
    return result


def _weight_of(
    node: TraceNode, left: Value, right: Value, book: LabelBook
) -> tuple[bool, Value | None]:
    """Whether it is the right factor that is a parameter or a function of some; that factor."""
    sides = list(zip((False, True), (left, right), node.inputs[-2:], strict=True))
    for is_right, value, _ in sides[::-1]:
        if value.parameter is not None:
            return is_right, value
    for is_right, value, edge in sides[::-1]:
        if edge is not None and edge[0] in book.weights and len(value.shape) == 2:
            return is_right, value
    return True, None


@CHANNEL_RULES.register_module(name='addmm')
def addmm(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """What is added, then the two factors of the product."""
    product = matmul(node, inputs[1:], book)
    added = constants_of(node, book) if inputs[0] is None else [inputs[0]]
    return meet([product, *added], node.shapes[0], book, node.where) if added else product


@CHANNEL_RULES.register_module(name=['mv', 'dot'])
def of_vectors(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """(n, k) or (k,) times (k,): of matrices with one column, or with one row and one column."""
    left, right = inputs
    row = left if node.op == 'mv' else _as_matrix(left, 0)
    matrices = replace(node, shapes=((*(node.shapes[0] or (1,)), 1),))
    product = matmul(matrices, [row, _as_matrix(right, 1)], replace(book, products=[], sites=[]))
    factors = [factor[:, 0] for factor in product.factors if node.op == 'mv']
    return Value(node.shapes[0], factors, product.fixed)


def _as_matrix(vector: Value | None, dim: int) -> Value | None:
    """A vector with a dim of size 1 before or behind its own."""
    if vector is None:
        return None
    factors = [np.expand_dims(factor, dim) for factor in vector.factors]
    shape = (1, *vector.shape) if dim == 0 else (*vector.shape, 1)
    return replace(vector, shape=shape, factors=factors)


def _by_axis(factors: list[IntArray], dim: int) -> tuple[list[IntArray], list[IntArray]]:
    """Factors that vary along ``dim``, and those that do not."""
    return [f for f in factors if f.shape[dim] > 1], [f for f in factors if f.shape[dim] == 1]


def _unite_contracted(
    contracted: list[IntArray],
    left: Value,
    summed: list[IntArray],
    right: Value,
    book: LabelBook,
    node: TraceNode,
    of_data: bool,
) -> tuple[list[IntArray], list[IntArray]]:
    """Unite the labels along the dim that is summed over, (..., 1, k) and (..., k, 1).

    Of a matrix that a layer makes for each sample (dynamic filters) the rows that meet channels
    of data go with these.

    Returns:
        For each side the labels of blocks of channels (heads) that have a product each, and go
        whole.
    """
    alike = [of_data and any(len(axes_of(f)) == 1 for f in fs) for fs in (contracted, summed)]
    ours = _rows_decided(contracted, 1, book, alike[1])
    theirs = _rows_decided(summed, 2, book, alike[0])
    sides = [[f.swapaxes(-1, -2) for f in ours[0]], theirs[0]]
    dim = len(node.shapes[0]) - 2
    decide_blocks(sides, [{dim}, {dim}], book, node.where)
    split = [_by_axis(factors, dim) for factors in sides]
    for one in split[0][0]:
        for other in split[1][0]:
            book.unite(one, other)
    whole = [ours[1], theirs[1]]
    for side, value in ((0, right), (1, left)):
        factors, blocks = split[side]
        for factor in factors:
            if len(axes_of(factor)) > 1 and (split[1 - side][0] or book.goes_by_heads()):
                reason = f'{node.where} is one product per block'
                blocks.append(book.even_blocks(factor, dim, reason))
            elif not split[1 - side][0]:
                book.dims += [(node.id, factor.ravel())] if len(axes_of(factor)) > 1 else []
                book.pin(factor, f'{node.where}: the other factor {book.reasons[-value.fixed]}')
        whole[side] += [f for f in blocks if f.shape[dim] == 1]
    return whole[0], whole[1]


def _rows_decided(
    factors: list[IntArray], from_end: int, book: LabelBook, alike: bool
) -> tuple[list[IntArray], list[IntArray]]:
    """Factors along the dim that is summed over, and blocks of channels that lie along the other.

    Where each of several rows has channels of its own (heads in the batch of a linear layer),
    rows go whole, or lose the same channels.
    """
    summed, whole = [], []
    for factor in factors:
        inside = factor.ndim - from_end
        if factor.shape[from_end - 3] == 1:
            summed.append(factor)
        elif book.goes_by_heads() and not alike:
            whole.append(book.whole_blocks(factor, inside))
        else:
            summed.append(book.alike_blocks(factor, inside))
    return summed, whole
