"""Channel labels, and what is learned about them while they travel.

A *label* is an integer that stands for one channel. A traced tensor carries its labels
as *factors*: integer arrays of the tensor's rank in which a dim is either of the
tensor's size or 1 (constant along it). An element of the tensor exists in a subnet if
all its labels do. A convolution's weight has two factors, one along its outputs and one
along its inputs; a feature map usually has one, of shape (1, C, 1, 1).

Negative labels stand for positions that are always kept: label ``-k`` says that they
are fixed for ``LabelBook.reasons[k]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmprune.channels.facts import (
    Axes,
    EqualCounts,
    IntArray,
    Product,
    Site,
    Size,
    Statistic,
    axes_of,
)

KERNEL = 'position in a kernel'
COMPLEX = 'real and imaginary part'
HIDDEN = frozenset({KERNEL, COMPLEX})
"""Reasons of dims that hold no channels; not worth a line in a report."""


def kept(alive: np.ndarray, labels: IntArray) -> np.ndarray:
    """Which of ``labels`` are alive; those below 0 always are."""
    return alive[np.maximum(labels, 0)] | (labels < 0)


def inputs_by_group(factor: IntArray) -> IntArray:
    """Labels of a grouped convolution's inputs, (groups, I / groups).

    ``factor`` has those of every output, (O, I / groups, 1, ...); a channel is in one group only.
    """
    rows = factor.reshape(factor.shape[:2])
    return rows[np.flatnonzero(np.diff(rows[:, 0], prepend=rows[0, 0] - 1))]


def squeeze_constant(factor: IntArray) -> IntArray:
    """The same factor with size 1 along every dim on which it does not vary."""
    for dim in axes_of(factor):
        corner = factor[tuple(slice(2) if d == dim else 0 for d in range(factor.ndim))]
        if corner[0] == corner[1]:  # most factors vary, and most of those show it here
            first = factor.take([0], axis=dim)
            if (factor == first).all():
                factor = first
    return factor


@dataclass
class Value:
    """The labels of one traced tensor.

    Attributes:
        shape: Shape of the tensor.
        factors: Label arrays, no two of which vary along the same set of dims.
        fixed: Negative label with the reason why dims without a factor cannot shrink.
        parameter: Name of the parameter that this is, if only transposed.
        constant: Dims of size above 1 along which all elements are the same (by ``expand``).
    """

    shape: tuple[int, ...]
    factors: list[IntArray]
    fixed: int = -1
    parameter: str | None = None
    constant: frozenset[int] = frozenset()

    def along(self, dim: int) -> list[IntArray]:
        """The factors that vary along ``dim``."""
        return [f for f in self.factors if f.shape[dim] > 1]


@dataclass
class LabelBook:
    """All that one pass over the graph says about labels.

    ``canonical`` maps the label of every parameter position to the representative that
    the passes before this one have found for it; ``aliases`` has all names of tied
    parameters by their first. ``attention`` says whether blocks of channels (heads)
    go whole (``'heads'``) or equally many channels of each (``'dims'``); the nodes
    of ``by_dims`` are always pruned by dims, those of ``by_heads`` always by heads. ``heads``
    has the labels of blocks that are pruned whole, by node, and ``dims`` those of blocks that
    lose channels. ``node`` is the one at hand, ``module`` where it ran.
    ``group_norm`` says whether a GroupNorm loses whole ``'groups'`` or equally many
    ``'channels'`` of each. ``known_sizes`` are numbers of a module that are the size of a dim
    beyond doubt: (module, attribute) -> position in it (None for a single number) -> the dim.
    ``of_buffers`` says which labels no parameter has, (num_labels,) bool, empty if none.
    ``weights`` are the nodes that depend on parameters alone. ``unmasked`` are dims of
    parameters along which masks must leave numbers, since a row of zeros has no direction.
    ``loose`` are nodes that end a shuffle behind which channels may stand in another order than in
    the full network, see ``Arrangement``.
    """

    canonical: IntArray
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=lambda: ['', 'not traced to any layer'])
    sites: list[Site] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)
    constraints: list[EqualCounts] = field(default_factory=list)
    known_sizes: dict[tuple[str, str], dict[int | None, Size]] = field(default_factory=dict)
    pins: list[tuple[IntArray, str]] = field(default_factory=list)
    attention: str = 'heads'
    group_norm: str = 'channels'
    heads: list[tuple[int, IntArray]] = field(default_factory=list)
    dims: list[tuple[int, IntArray]] = field(default_factory=list)
    by_dims: frozenset[int] = frozenset()
    by_heads: frozenset[int] = frozenset()
    node: int = -1
    module: str = ''
    weights: frozenset[int] = frozenset()
    of_buffers: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    unmasked: set[tuple[str, int]] = field(default_factory=set)
    loose: frozenset[int] = frozenset()
    _numbers: dict[str, int] = field(default_factory=dict)
    _rows: set[bytes] = field(default_factory=set)
    _unions: list[tuple[IntArray, IntArray]] = field(default_factory=list)

    def goes_by_heads(self) -> bool:
        """Whether blocks of channels (heads) are pruned whole in the node at hand."""
        by_wish = self.attention == 'heads' and self.node not in self.by_dims
        return by_wish or self.node in self.by_heads

    def is_head(self, labels: IntArray) -> bool:
        """Whether some of these channels are blocks that go whole already."""
        return any(np.isin(labels, blocks).any() for _, blocks in self.heads)

    def whole_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The blocks of ``factor``, whose channels lie along ``inside``: each goes whole."""
        blocks = factor.take([0], axis=inside)
        self.heads.append((self.node, blocks.ravel()))
        self.unite(factor, blocks)
        return blocks

    def whole_if_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The blocks of ``factor`` where it has several along ``inside``, and they go whole."""
        has_blocks = factor.shape[inside] > 1 and len(axes_of(factor)) > 1
        return self.whole_blocks(factor, inside) if has_blocks and self.goes_by_heads() else factor

    def alike_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The channels of one block, which lie along ``inside``: all blocks lose the same."""
        outside = [dim for dim in axes_of(factor) if dim != inside]
        self.dims.append((self.node, factor.ravel()))
        self.unite_along(factor, outside)
        return _first(factor, outside)

    def even_blocks(self, factor: IntArray, inside: int, reason: str) -> IntArray:
        """What is left of ``factor`` where every block is a matter of its own channels.

        Blocks go whole, or lose equally many channels: any of them, unless others than these
        blocks were cut from the channels, so that only the same of each leave such blocks again.
        """
        if self.goes_by_heads():
            return self.whole_blocks(factor, inside)
        if self.ragged_dim(factor) not in (None, inside):
            return self.alike_blocks(factor, inside)
        self.dims.append((self.node, factor.ravel()))
        self.equal_counts(np.moveaxis(factor, inside, -1).reshape(-1, factor.shape[inside]), reason)
        return factor

    def is_in_buffers(self, labels: IntArray) -> bool:
        """Whether no parameter has any of these channels."""
        return bool(len(self.of_buffers) and labels.min() >= 0 and self.of_buffers[labels].all())

    def fixed(self, reason: str) -> int:
        """A negative label for positions that are always kept, with the reason."""
        number = self._numbers.setdefault(reason, len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(reason)
        return -number

    def pin(self, labels: IntArray, reason: str) -> None:
        """These channels are never removed."""
        self.pins.append((labels[labels >= 0], reason))

    def unite(self, first: IntArray, second: IntArray) -> None:
        """Channels at the same place of the two (broadcast) arrays live or die together."""
        if first is second:
            return
        first, second = np.broadcast_arrays(first, second)
        differ = first != second
        if not differ.any():
            return
        first, second = first[differ], second[differ]
        if min(first.min(), second.min()) < 0:
            for one, other in ((first, second), (second, first)):
                for label in np.unique(other[other < 0]):
                    self.pin(one[other == label], self.reasons[-label])
            both = (first >= 0) & (second >= 0)
            first, second = first[both], second[both]
        if len(first):
            self._unions.append((first, second))

    def equal_counts(self, rows: IntArray, reason: str) -> None:
        """Every row of ``rows`` (blocks, size) keeps the same number of channels."""
        self._rows.update(row.tobytes() for row in rows)
        if len(rows) > 1 and not (np.sort(rows, axis=1) == np.sort(rows[:1], axis=1)).all():
            self.constraints.append(EqualCounts(rows, reason))

    def mark_ragged(self, factor: IntArray, dim: int) -> None:
        """Note that every position of the other dims keeps equally many channels along ``dim``."""
        rows = np.moveaxis(factor, dim, -1).reshape(-1, factor.shape[dim])
        self._rows.update(np.ascontiguousarray(row).tobytes() for row in rows)

    def is_ragged(self, factor: IntArray, dim: int) -> bool:
        """Whether every position of the other dims has its own kept channels along ``dim``.

        A dim of channels that was cut into blocks is such: the kept channels of each block
        move together in the deployed network, and the n-th of one block lies beside the
        n-th of another, which need not be neighbours in the full network.
        """
        if len(axes_of(factor)) < 2:
            return False
        row = np.moveaxis(factor, dim, -1).reshape(-1, factor.shape[dim])[0]
        return np.ascontiguousarray(row).tobytes() in self._rows

    def ragged_dim(self, factor: IntArray) -> int | None:
        """The dim along which every position of the others has its own kept channels."""
        return next((dim for dim in axes_of(factor) if self.is_ragged(factor, dim)), None)

    def unite_along(self, factor: IntArray, dims: Iterable[int]) -> None:
        """The channels at all positions of ``dims`` live or die together."""
        self.unite(factor, _first(factor, dims))

    def add_site(self, layer: str, role: str, labels: IntArray, node: int) -> None:
        """Note the labels along a layer's ``in`` or ``out`` channels."""
        self.sites.append(Site(layer, role, labels, node))

    def add_sizes(self, module: str, value: Value, own: bool, is_weight: bool = False) -> None:
        """Note the dims of ``value`` that shrink; the first is the batch, unless of a weight."""
        for dim in range(0 if is_weight else 1, len(value.shape)):
            factors = tuple(value.along(dim))
            if factors:
                self.sizes.append(Size(module, value.shape, factors, dim, own))

    def know_size(self, name: str, index: int | None, size: Size) -> None:
        """Note that a number of ``size.module``, of this name, is the size of that dim."""
        self.known_sizes.setdefault((size.module, name), {})[index] = size

    def add_product(
        self,
        layer: str,
        node: int,
        output: Value,
        constant: int,
        counts: list[tuple[IntArray, int]],
    ) -> None:
        """Note a product that takes ``constant`` times ``counts`` MACs per output element."""
        labelled: set[int] = set()
        counts = list(counts)
        for factor in output.factors:
            # Blocks that two factors have in common stay, and count once.
            shared = labelled & set(axes_of(factor))
            counts.append((factor.ravel(), prod(output.shape[dim] for dim in shared)))
            labelled |= set(axes_of(factor))
        free = [size for dim, size in enumerate(output.shape) if dim not in labelled]
        self.products.append(Product(layer, node, constant * prod(free), counts))

    def merged(self) -> tuple[IntArray, bool]:
        """``canonical`` after this pass's unions, and whether they brought anything new."""
        size = len(self.canonical)
        if not self._unions:
            return self.canonical, False
        first = np.concatenate([pair[0] for pair in self._unions])
        second = np.concatenate([pair[1] for pair in self._unions])
        graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(size, size))
        count, component = connected_components(graph, directed=False)
        # The smallest label stands for its component, so that order says something.
        smallest = np.full(count, size)
        np.minimum.at(smallest, component, np.arange(size))
        return smallest[component][self.canonical], True


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
    widest = max(values, key=lambda v: (prod(v.shape), -v.fixed), default=None)
    return Value(shape, list(chosen.values()), widest.fixed if widest else -1)


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
        return _first(factor, extent)
    parts = [f for f in other if set(axes_of(f)) < axes and axes_of(f) not in known]
    inside = max(axes) if ragged is None else ragged
    if book.goes_by_heads() and any(axes_of(f) == (inside,) and book.is_head(f) for f in parts):
        inside = max(axes - {inside})
    within = [f for f in parts if f.shape[inside] > 1]
    if not parts or any(len(axes_of(f)) > 1 for f in within):
        return factor
    if book.goes_by_heads() or (not within and book.node not in book.by_dims):
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


def _first(factor: IntArray, dims: Iterable[int]) -> IntArray:
    """``factor`` at the first position of ``dims``."""
    for dim in dims:
        factor = factor.take([0], axis=dim)
    return factor


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
            blocks.append(_first(factor, inside))
        book.unite(*blocks)
    return True


def pin_all(values: Iterable[Value | None], book: LabelBook, reason: str) -> None:
    """Pin everything that reaches an operation."""
    for value in values:
        if value is not None:
            for factor in value.factors:
                book.pin(factor, reason)
