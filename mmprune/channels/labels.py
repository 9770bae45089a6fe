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
    EqualCounts,
    IntArray,
    Product,
    Site,
    Size,
    Statistic,
    Ways,
    axes_of,
    row_keys,
)
from mmprune.trace.expressions import Dim, Edge, Expression, leaves

KERNEL = 'position in a kernel'
COMPLEX = 'real and imaginary part'
HIDDEN = frozenset({KERNEL, COMPLEX})
"""Reasons of dims that hold no channels; not worth a line in a report."""


def kept(alive: np.ndarray, labels: IntArray) -> np.ndarray:
    """Which of ``labels`` are alive; those below 0 always are."""
    return alive[np.maximum(labels, 0)] | (labels < 0)


def having_any(named: Iterable[tuple[str, IntArray]], marked: np.ndarray) -> set[str]:
    """The names that have a label array with one that is marked, (num_labels,) bool.

    Labels below 0 are not marked.
    """
    pairs = list(named)
    found = have_any([labels for _, labels in pairs], marked)
    return {name for (name, _), has in zip(pairs, found, strict=True) if has}


def have_any(arrays: Sequence[IntArray], marked: np.ndarray) -> list[bool]:
    """Which of some label arrays have a label that is marked, see ``having_any``."""
    full = [number for number, labels in enumerate(arrays) if labels.size]
    found = [False] * len(arrays)
    if full:
        flat = np.concatenate([arrays[number].ravel() for number in full])
        starts = np.cumsum([0, *(arrays[number].size for number in full[:-1])])
        has = np.logical_or.reduceat(marked[np.maximum(flat, 0)] & (flat >= 0), starts)
        for number, is_marked in zip(full, has.tolist(), strict=True):
            found[number] = is_marked
    return found


def inputs_by_group(factor: IntArray) -> IntArray:
    """Labels of a grouped convolution's inputs, (groups, I / groups).

    ``factor`` has those of every output, (O, I / groups, 1, ...); a channel is in one group only.
    """
    rows = factor.reshape(factor.shape[:2])
    return rows[np.flatnonzero(np.diff(rows[:, 0], prepend=rows[0, 0] - 1))]


def first_along(factor: IntArray, dims: Iterable[int]) -> IntArray:
    """``factor`` at the first position of ``dims``."""
    for dim in dims:
        factor = factor.take([0], axis=dim)
    return factor


def squeeze_constant(factor: IntArray) -> IntArray:
    """The same factor with size 1 along every dim on which it does not vary."""
    for dim in axes_of(factor) if factor.size else ():
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
        factors: Label arrays, no two of which vary along the same set of dims, unless a view has
            joined several dims of channels in one.
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
    go whole (``'heads'``) or equally many channels of each (``'dims'``), where ``ways`` do not
    say it. ``heads``
    has the labels of blocks that are pruned whole, by node, and ``dims`` those of blocks that
    lose channels. ``node`` is the one at hand, ``module`` where it ran.
    ``group_norm`` says whether a GroupNorm loses whole ``'groups'`` or equally many
    ``'channels'`` of each. ``known_sizes`` are numbers of a module that are the size of a dim
    beyond doubt: (module, attribute) -> position in it (None for a single number) -> the dim.
    ``of_buffers`` says which labels no parameter has, (num_labels,) bool, empty if none.
    ``weights`` are the nodes that depend on parameters alone. ``unmasked`` are dims of
    parameters along which masks must leave numbers, since a row of zeros has no direction.
    ``values`` are the labels of tensors whose sizes were asked for, as far as they are known, and
    ``widths`` the numbers that new dims were given, with labels for them: (node, dim, where it
    begins) -> (expression, labels).
    ``computed`` has the labels of the weights that are no
    parameters, but functions of some; ``scalars`` what nodes have made one number of.
    Of a draft only the unions are wanted: it writes down no products and no sizes.
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
    ways: Ways = field(default_factory=Ways)
    node: int = -1
    module: str = ''
    weights: frozenset[int] = frozenset()
    of_buffers: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    unmasked: set[tuple[str, int]] = field(default_factory=set)
    computed: dict[Edge, Value] = field(default_factory=dict)
    scalars: list[tuple[int, IntArray]] = field(default_factory=list)
    values: dict[Edge, Value] = field(default_factory=dict)
    widths: Mapping[tuple[int, int, int], tuple[Expression, IntArray]] = field(default_factory=dict)
    is_draft: bool = False
    _numbers: dict[str, int] = field(default_factory=dict)
    _rows: set[bytes] = field(default_factory=set)
    _unions: list[tuple[IntArray, IntArray]] = field(default_factory=list)

    def goes_by_heads(self) -> bool:
        """Whether blocks of channels (heads) are pruned whole in the node at hand."""
        by_wish = self.attention == 'heads' and self.node not in self.ways.by_dims
        return by_wish or self.node in self.ways.by_heads

    def is_head(self, labels: IntArray) -> bool:
        """Whether some of these channels are blocks that go whole already."""
        return any(np.isin(labels, blocks).any() for _, blocks in self.heads)

    def whole_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The blocks of ``factor``, whose channels lie along ``inside``: each goes whole."""
        blocks = factor.take([0], axis=inside)
        self.heads.append((self.node, blocks.ravel()))
        self.unite(factor, blocks)
        return blocks

    def whole_or_alike(self, factor: IntArray, inside: int) -> IntArray:
        """What is left of blocks that go whole, or else all lose the same channels."""
        split = self.whole_blocks if self.goes_by_heads() else self.alike_blocks
        return split(factor, inside)

    def whole_if_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The blocks of ``factor`` where it has several along ``inside``, and they go whole."""
        has_blocks = factor.shape[inside] > 1 and len(axes_of(factor)) > 1
        return self.whole_blocks(factor, inside) if has_blocks and self.goes_by_heads() else factor

    def alike_blocks(self, factor: IntArray, inside: int) -> IntArray:
        """The channels of one block, which lie along ``inside``: all blocks lose the same."""
        outside = [dim for dim in axes_of(factor) if dim != inside]
        self.dims.append((self.node, factor.ravel()))
        self.unite_along(factor, outside)
        return first_along(factor, outside)

    def even_blocks(self, factor: IntArray, inside: int, reason: str) -> IntArray:
        """What is left of ``factor`` where every block is a matter of its own channels.

        Blocks go whole, or lose equally many channels: any of them, unless others than these
        blocks were cut from the channels, so that only the same of each leave such blocks again.
        """
        if self.goes_by_heads() or self.ragged_dim(factor) not in (None, inside):
            return self.whole_or_alike(factor, inside)
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

    def width_of(self, node: int, dim: int, start: int = 0) -> IntArray | None:
        """Labels along a new dim of a tensor that is the same everywhere along it.

        It may be a part of a dim that begins at ``start``. The labels are those of the dim that
        it is as wide as, or its own; None if nothing that it is as wide as shrinks.
        """
        expression, own = self.widths.get((node, dim, start), (None, None))
        if expression is None:
            return None
        dims = [leaf for leaf in leaves(expression) if isinstance(leaf, Dim)]
        factors = [f for leaf in dims if leaf.edge in self.values
                   for f in self.values[leaf.edge].along(leaf.dim)]  # fmt: skip
        if isinstance(expression, Dim) and len(factors) == 1 and len(axes_of(factors[0])) == 1:
            return factors[0].ravel()
        return own if factors or len(dims) < len(list(leaves(expression))) else None

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
        self.unite(factor, first_along(factor, dims))

    def add_site(self, layer: str, role: str, labels: IntArray, node: int) -> None:
        """Note the labels along a layer's ``in`` or ``out`` channels."""
        self.sites.append(Site(layer, role, labels, node))

    def add_sizes(self, module: str, value: Value, own: bool, is_weight: bool = False) -> None:
        """Note the dims that ``value`` has; the first is the batch, unless of a weight."""
        if self.is_draft or not (own or value.factors):
            return
        varying = {dim for factor in value.factors for dim in axes_of(factor)}
        for dim in range(0 if is_weight else 1, len(value.shape)):
            if own or dim in varying:
                factors = tuple(value.along(dim))
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
        if self.is_draft:
            return
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
        smallest = np.empty(count, np.int64)
        smallest[component[::-1]] = np.arange(size)[::-1]  # the last that is written stays
        return smallest[component][self.canonical], True


def pin_all(values: Iterable[Value | None], book: LabelBook, reason: str) -> None:
    """Pin everything that reaches an operation."""
    for value in values:
        if value is not None:
            for factor in value.factors:
                book.pin(factor, reason)
