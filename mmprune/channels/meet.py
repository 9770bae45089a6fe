"""What tensors that meet, element by element, say about each other's labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mmprune.channels.facts import Axes
from mmprune.channels.labels import IntArray, LabelBook, Value, axes_of, first_along

MAY_BE_JOINED = frozenset({'view', 'permute', 'transpose', 'matmul'})
"""Operations that a dim may go through which is several dims of channels joined in one."""


def without_joined(factors: list[IntArray]) -> tuple[list[IntArray], list[IntArray]]:
    """Of factors that vary along the same dims the one with most channels, and the others."""
    if len({axes_of(factor) for factor in factors}) == len(factors):
        return factors, []
    chosen: dict[Axes, IntArray] = {}
    for factor in sorted(factors, key=lambda own: -len(np.unique(own))):
        chosen.setdefault(axes_of(factor), factor)
    others = [own for own in factors if not np.array_equal(own, chosen[axes_of(own)])]
    return list(chosen.values()), others


def unjoined(factors: list[IntArray], book: LabelBook, where: str) -> list[IntArray]:
    """One of the factors along each of their dims; others that were joined with it are pinned."""
    found, joined = without_joined(factors)
    for factor in joined:
        book.pin(factor, f'{where} reads it joined with other channels in one dim')
    return found


def align(value: Value, rank: int) -> tuple[tuple[int, ...], list[IntArray]]:
    """Shape and factors of ``value`` broadcast to ``rank`` dims by leading ones."""
    lead = (1,) * (rank - len(value.shape))
    return lead + value.shape, [f.reshape(lead + f.shape) for f in value.factors]


def meet(values: Sequence[Value], shape: tuple[int, ...], book: LabelBook, where: str) -> Value:
    """Labels of a tensor whose elements each need the elements at its place in all ``values``.

    Factors that vary along the same dims are united. A factor that meets a tensor which
    has elements but no labels along its dims is pinned.
    """
    if len(values) == 1 and len(values[0].shape) == len(shape):
        return Value(shape, list(values[0].factors), values[0].fixed)
    aligned = [(value, *align(value, len(shape))) for value in values]
    if all([len(factors) == 1 for _, _, factors in aligned]):
        rows = [factor for _, _, (factor,) in aligned]
        kinds = {axes_of(row) for row in rows}
        if len(kinds) == 1 and len(*kinds) == 1:  # as most do, and then there is no more to say
            labels = _one_row(rows, book)
            return Value(shape, [labels], _widest(values))
    extents = []
    for value, full_shape, _ in aligned:
        constant = {dim + len(shape) - len(value.shape) for dim in value.constant}
        extents.append({dim for dim, size in enumerate(full_shape) if size > 1} - constant)
    decide_blocks([factors for _, _, factors in aligned], extents, book, where)
    chosen: dict[Axes, IntArray] = {}
    for _, _, factors in aligned:
        for factor in factors:
            first = chosen.setdefault(axes_of(factor), factor)
            book.unite(first, factor)
            if first.min() < 0:  # a channel's own label says more than that it stays
                chosen[axes_of(factor)] = np.where(first < 0, factor, first)
    for axes, factor in list(chosen.items()):
        for (value, _, factors), has in zip(aligned, extents, strict=True):
            own = {axes_of(f): f for f in factors}
            extent = has & set(axes)
            if axes in own or not extent:
                continue
            covering = [f for a, f in own.items() if extent & set(a)]
            covered = {dim for f in covering for dim in axes_of(f)}
            if not covering and book.ragged_dim(factor) not in (None, *extent):
                continue  # every block of channels stays, so its dim is whole on both sides
            if covering and all(_share_blocks(factor, other, book) for other in covering):
                continue
            if not extent <= covered or not covered <= set(axes):
                book.pin(factor, f'{where}: it meets a tensor that {book.reasons[-value.fixed]}')
                chosen.pop(axes, None)
                continue
            for other in covering:
                carriers = [fs for _, _, fs in aligned if any(axes_of(f) == axes for f in fs)]
                explained = any(axes_of(f) == axes_of(other) for fs in carriers for f in fs)
                if not explained:
                    book.unite(factor, other)
    return Value(shape, list(chosen.values()), _widest(values))


def _one_row(rows: Sequence[IntArray], book: LabelBook) -> IntArray:
    """Unite rows of labels along the same dim; the row that says most of each place."""
    first, *others = rows
    for row in others:
        book.unite(first, row)
        if first.min() < 0:
            first = np.where(first < 0, row, first)
    return first


def _widest(values: Sequence[Value]) -> int:
    """Why dims without a factor stay, as the largest tensor has it."""
    widest = max(values, key=lambda v: (prod(v.shape), -v.fixed), default=None)
    return widest.fixed if widest else -1


def decide_blocks(
    sides: Sequence[list[IntArray]], extents: Sequence[set[int]], book: LabelBook, where: str
) -> None:
    """Decide about blocks of channels that meet tensors with labels per block, or per channel.

    A factor that varies along blocks and along the channels in them (features of every head)
    can't be the product of one that tells the blocks apart and one that tells the channels
    apart (a parameter of shape (heads, width)), unless blocks go whole, or all lose the same
    channels.

    Args:
        sides: The factors of what meets; they are changed to what is left of them.
        extents: Dims along which each of them has elements of its own.
        book: Where the decisions are noted.
        where: The operation.
    """
    for factors in sides:
        for other, extent in zip(sides, extents, strict=True):
            position = 0
            while other is not factors and position < len(factors):
                decided = _against(factors[position], factors, other, extent, book, where)
                if decided is factors[position]:
                    position += 1
                else:
                    factors[position] = decided


def _against(
    factor: IntArray,
    own: list[IntArray],
    other: list[IntArray],
    extent: set[int],
    book: LabelBook,
    where: str,
) -> IntArray:
    """``factor`` itself, or what is left of it where ``other`` has elements along some dims."""
    axes, known = set(axes_of(factor)), {axes_of(f) for f in own}
    if len(axes) < 2 or any(set(axes_of(f)) >= axes for f in other):
        return factor
    ragged, extent = book.ragged_dim(factor), extent & axes
    if not any(extent & set(axes_of(f)) for f in other):
        # A dim of blocks is whole on both sides as long as each of them keeps some channels.
        if not extent or extent == axes or ragged not in (None, *extent):
            return factor
        book.unite_along(factor, extent)
        return first_along(factor, extent)
    parts = [f for f in other if set(axes_of(f)) < axes and axes_of(f) not in known]
    inside = max(axes) if ragged is None else ragged
    if book.goes_by_heads() and any(axes_of(f) == (inside,) and book.is_head(f) for f in parts):
        inside = max(axes - {inside})
    within = [f for f in parts if f.shape[inside] > 1]
    if not parts or any(len(axes_of(f)) > 1 for f in within):
        return factor
    if book.goes_by_heads() or (not within and book.node not in book.ways.by_dims):
        held, left = within, book.whole_blocks(factor, inside)
    elif within:
        held, left = [f for f in parts if f.shape[inside] == 1], book.alike_blocks(factor, inside)
    elif ragged is None:
        return factor
    else:
        held, left = parts, factor
    for part in held:
        book.pin(part, f'{where}: it meets blocks of channels, of which others are pruned')
        other[:] = [f for f in other if f is not part]
    return left


def _share_blocks(first: IntArray, second: IntArray, book: LabelBook) -> bool:
    """Whether two factors have only their blocks (heads) in common, which then go together."""
    shared = set(axes_of(first)) & set(axes_of(second))
    pair = (first, second)
    if any(book.ragged_dim(factor) in (None, *shared) for factor in pair):
        return False
    if book.goes_by_heads():
        blocks = []
        for factor in pair:
            inside = set(axes_of(factor)) - shared
            book.unite_along(factor, inside)
            blocks.append(first_along(factor, inside))
        book.unite(*blocks)
    return True
