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
    row_keys,
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
    parameters by their first. ``attention`` says whether products per block of channels
    lose whole blocks (``'heads'``) or equally many channels of each (``'dims'``); the nodes
    of ``by_dims`` are always pruned by dims, those in the modules of ``by_heads`` always by
    heads. ``heads`` has the labels of blocks that are pruned whole, by node, and ``dims`` those
    of blocks that lose channels, by module. ``module`` is that of the node at hand.
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
    dims: list[tuple[str, IntArray]] = field(default_factory=list)
    by_dims: frozenset[int] = frozenset()
    by_heads: frozenset[str] = frozenset()
    module: str = ''
    weights: frozenset[int] = frozenset()
    of_buffers: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    unmasked: set[tuple[str, int]] = field(default_factory=set)
    loose: frozenset[int] = frozenset()
    _numbers: dict[str, int] = field(default_factory=dict)
    _rows: set[bytes] = field(default_factory=set)
    _unions: list[tuple[IntArray, IntArray]] = field(default_factory=list)

    def goes_by_heads(self, node: int | None = None) -> bool:
        """Whether blocks of channels (heads) are pruned whole in the node at hand."""
        by_wish = self.attention == 'heads' and node not in self.by_dims
        return by_wish or self.module in self.by_heads

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
        differ = first != second
        if not differ.any():
            return
        first, second = np.broadcast_arrays(first, second)
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
        self._rows.update(row_keys(rows))
        if len(rows) > 1 and not (np.sort(rows, axis=1) == np.sort(rows[:1], axis=1)).all():
            self.constraints.append(EqualCounts(rows, reason))

    def mark_ragged(self, factor: IntArray, dim: int) -> None:
        """Note that every position of the other dims keeps equally many channels along ``dim``."""
        rows = np.moveaxis(factor, dim, -1).reshape(-1, factor.shape[dim])
        self._rows.update(row_keys(rows))

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
        first = factor
        for dim in dims:
            first = first.take([0], axis=dim)
        self.unite(factor, first)

    def add_site(self, layer: str, role: str, labels: IntArray, node: int) -> None:
        """Note the labels along a layer's ``in`` or ``out`` channels."""
        self.sites.append(Site(layer, role, labels, node))

    def add_sizes(self, module: str, value: Value, own: bool, is_weight: bool = False) -> None:
        """Note the dims of ``value`` that shrink; the first is the batch, unless of a weight."""
        dims = sorted({dim for factor in value.factors for dim in axes_of(factor)})
        for dim in dims if is_weight else [dim for dim in dims if dim]:
            self.sizes.append(Size(module, value.shape, tuple(value.along(dim)), dim, own))

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
        labelled = {dim for factor in output.factors for dim in axes_of(factor)}
        free = [size for dim, size in enumerate(output.shape) if dim not in labelled]
        counts = counts + [(factor.ravel(), 1) for factor in output.factors]
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
    if len(book.of_buffers) and book.goes_by_heads():
        aligned = [(v, full, _without_places(own, aligned, book)) for v, full, own in aligned]
    chosen: dict[Axes, IntArray] = {}
    for _, _, factors in aligned:
        for factor in factors:
            first = chosen.setdefault(axes_of(factor), factor)
            book.unite(first, factor)
            if first.min() < 0:  # a channel's own label says more than that it stays
                chosen[axes_of(factor)] = np.where(first < 0, factor, first)
    for axes, factor in list(chosen.items()):
        for value, full_shape, factors in aligned:
            own = {axes_of(f): f for f in factors}
            lead = len(shape) - len(value.shape)
            constant = {dim + lead for dim in value.constant}
            extent = {dim for dim in axes if full_shape[dim] > 1} - constant
            if axes in own or not extent:
                continue
            covering = [f for a, f in own.items() if extent & set(a)]
            covered = {dim for f in covering for dim in axes_of(f)}
            if not covering and book.ragged_dim(factor) not in (None, *extent):
                continue  # every block of channels stays, so its dim is whole on both sides
            if not covering and book.goes_by_heads() and extent < set(axes):
                book.unite_along(factor, extent)  # a block goes whole, or stays whole
                continue
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


def _without_places(
    factors: list[IntArray], aligned: Iterable[tuple], book: LabelBook
) -> list[IntArray]:
    """``factors`` without those of buffers that are the same for every block of another tensor.

    The angles of rotary embeddings are the same for all heads: they stay, and heads go whole.
    """
    blocks = [set(axes_of(f)) for _, _, own in aligned for f in own if len(axes_of(f)) > 1]
    return [
        factor
        for factor in factors
        if not book.is_in_buffers(factor) or not any(axes > set(axes_of(factor)) for axes in blocks)
    ]


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
            for dim in inside:
                factor = factor.take([0], axis=dim)
            blocks.append(factor)
        book.unite(*blocks)
    return True


def pin_all(values: Iterable[Value | None], book: LabelBook, reason: str) -> None:
    """Pin everything that reaches an operation."""
    for value in values:
        if value is not None:
            for factor in value.factors:
                book.pin(factor, reason)
