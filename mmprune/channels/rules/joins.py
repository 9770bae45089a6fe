"""Rules of operations that join tensors: labels are strung together as the data are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmprune.channels.labels import IntArray, LabelBook, Value, axes_of, pin_all
from mmprune.registry import CHANNEL_RULES
from mmprune.trace.trace_graph import TraceNode


@CHANNEL_RULES.register_module(name='cat')
def cat(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """Labels along the joined dim are strung together; constants among them stay."""
    shape = node.shapes[0]
    dim = node.attrs['dim'] % len(shape)
    inputs = [v for v in inputs if v is None or v.shape[dim]]  # as of a new cache
    values = [v for v in inputs if v is not None]
    missing = shape[dim] - sum(v.shape[dim] for v in values)
    if len(values) < len(inputs) and missing:
        constants = _constants_along(node, dim, missing, sum(v is None for v in inputs))
        fixed = book.fixed('is a constant')
        if not constants:
            pin_all(values, book, f'{node.where} joins it with several constants')
            return Value(shape, [], fixed)
        rest = iter(constants)
        values = [v if v is not None else Value(next(rest), [], fixed) for v in inputs]
    return _join(node, values, dim, shape, book)


def _constants_along(node: TraceNode, dim: int, missing: int, count: int) -> list[tuple[int, ...]]:
    """Shapes of the constants among what is joined, in order; none if they are not known."""
    full = list(node.shapes[0])
    if count == 1:
        return [(*full[:dim], missing, *full[dim + 1 :])]
    shapes = [s for s in node.attrs.get('constant_shapes', ()) if len(s) == len(full)]
    known = len(shapes) == count and sum(s[dim] for s in shapes) == missing
    return shapes if known else []


def _join(
    node: TraceNode, values: list[Value], dim: int, shape: tuple[int, ...], book: LabelBook
) -> Value:
    """Concatenate along ``dim``: factors along it are strung together, others are united.

    Blocks of channels that go whole take along what is joined to each of them.
    """
    axes_along = [{axes_of(f) for f in v.along(dim)} for v in values]
    common = set.intersection(*axes_along)
    values = [
        replace(v, factors=[f if axes_of(f) in common else _whole(f, dim, book) for f in v.factors])
        for v in values
    ]
    strung = {_but(axes_of(f), dim) for v in values for f in v.along(dim)}
    widest = max(strung, key=len, default=())
    has_one = all(len(v.along(dim)) < 2 for v in values)
    if has_one and all(set(rest) <= set(widest) for rest in strung):
        strung &= {widest}  # channels that all blocks share lie beside those of each
    factors = []
    for rest in sorted(strung):
        pieces = [_piece(value, rest, dim, len(strung) == 1) for value in values]
        factors.append(np.concatenate(pieces, axis=dim))
        if all(f.min() < 0 or f.shape[dim] == 1 or book.is_ragged(f, dim) for f in pieces):
            book.mark_ragged(factors[-1], dim)
    for axes in sorted({axes_of(f) for v in values for f in v.factors if f.shape[dim] == 1}):
        if axes in strung:
            continue
        own = [next((f for f in v.factors if axes_of(f) == axes), None) for v in values]
        first = next(f for f in own if f is not None)
        for value, factor in zip(values, own, strict=True):
            if factor is not None:
                book.unite(first, factor)
            elif not value.constant >= set(axes):
                why = book.reasons[-value.fixed]
                book.pin(first, f'{node.where} joins it with a tensor that {why}')
        factors.append(first)
    return Value(shape, factors, values[0].fixed)


def _whole(factor: IntArray, dim: int, book: LabelBook) -> IntArray:
    return book.whole_if_blocks(factor, dim) if factor.shape[dim] > 1 else factor


def _piece(value: Value, rest: tuple[int, ...], dim: int, is_only: bool) -> IntArray:
    """Labels of one joined tensor along ``rest`` and ``dim``; fixed ones if it has none."""
    size = [n if d == dim or d in rest else 1 for d, n in enumerate(value.shape)]
    for factor in value.along(dim):
        if is_only or _but(axes_of(factor), dim) == rest:
            return np.broadcast_to(factor, size)
    return np.full(size, value.fixed)


def _but(axes: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(axis for axis in axes if axis != dim)


@CHANNEL_RULES.register_module(name='stack')
def stack(node: TraceNode, inputs: list[Value | None], book: LabelBook) -> Value:
    """A concatenation along a new dim."""
    shape = node.shapes[0]
    dim = node.attrs['dim'] % len(shape)
    if any(v is None for v in inputs):
        pin_all(inputs, book, f'{node.where} stacks it with a constant')
        return Value(shape, [], book.fixed('is stacked with a constant'))
    values = [
        Value(
            (*v.shape[:dim], 1, *v.shape[dim:]),
            [np.expand_dims(f, dim) for f in v.factors],
            v.fixed,
        )
        for v in inputs
        if v is not None
    ]
    return _join(node, values, dim, shape, book)
