"""What is learned about labels: where they run, what they multiply, how many must stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

IntArray = np.ndarray
Axes = tuple[int, ...]


def axes_of(factor: IntArray) -> Axes:
    """The dims along which a factor varies."""
    return _axes(factor.shape)


@lru_cache(maxsize=4096)
def _axes(shape: tuple[int, ...]) -> Axes:
    return tuple(dim for dim, size in enumerate(shape) if size > 1)


@dataclass(frozen=True)
class Ways:
    """What a pass goes by: nodes.

    Attributes:
        by_dims: Of which blocks of channels (heads) are always pruned by dims.
        by_heads: Of which they always go whole.
        loose: That end a shuffle behind which channels may stand in another order than in the
            full network, see ``Arrangement``.
    """

    by_dims: frozenset[int] = frozenset()
    by_heads: frozenset[int] = frozenset()
    loose: frozenset[int] = frozenset()


@dataclass
class Site:
    """Labels along the input or output channels of one non-pass operation or norm."""

    layer: str
    role: str
    labels: IntArray
    node: int


@dataclass
class Product:
    """The multiply-adds of one convolution or matrix product, as a product of counts.

    MACs = ``constant`` times, for every (labels, divisor) in ``counts``, the number of kept
    labels divided by the divisor. Labels below 0 always count.
    """

    layer: str
    node: int
    constant: int
    counts: list[tuple[IntArray, int]]


@dataclass(frozen=True)
class Size:
    """A dim of a traced tensor that shrinks, and the module that may know its size by number.

    Attributes:
        module: Where the tensor was made, or what it went into or came out of.
        shape: Shape of the tensor.
        factors: Its label arrays that vary along ``dim``.
        dim: The dim.
        own: Whether the module itself moved or cut the data (a view, a split).
        of_blocks: Whether it holds blocks of channels, each of which keeps its own.
    """

    module: str
    shape: tuple[int, ...]
    factors: tuple[IntArray, ...]
    dim: int
    own: bool
    of_blocks: bool = False

    @property
    def full(self) -> int:
        """The size in the full network."""
        return self.shape[self.dim]

    def row(self) -> IntArray:
        """Labels along the dim, at the first position of all others."""
        (factor, *_) = self.factors
        index = tuple(slice(None) if d == self.dim else 0 for d in range(factor.ndim))
        return factor[index]

    def is_same(self, other: Size) -> bool:
        """Whether two dims have the same channels in the same order, so that they are one."""
        if len(self.factors) != len(other.factors):
            return False
        mine, others = (
            [np.moveaxis(f, size.dim, 0).reshape(size.full, -1) for f in size.factors]
            for size in (self, other)
        )
        return all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))


@dataclass(frozen=True)
class Statistic:
    """A reduction over channels: in a subnet it sees only the kept ones.

    Attributes:
        module: Where it is taken.
        kind: What is taken, see ``KeptElements`` of the execution.
        dims: The dims that are reduced, counted from the end, in order; empty where the
            operation says which.
        labels: Labels of the tensor's elements, of its rank, size 1 where they are constant.
        node: The operation; of several with tensors of one shape they are taken in order.
    """

    module: str
    kind: str
    dims: Axes
    labels: IntArray
    node: int = -1


def row_keys(rows: IntArray) -> frozenset[bytes]:
    """What the rows of labels, (rows, size), are looked up by: the bytes of each."""
    numbers, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    return frozenset([numbers[at : at + width] for at in range(0, len(numbers), width or 1)])


def set_key(labels: IntArray) -> bytes:
    """What a set of labels is looked up by, in whatever order they are."""
    return np.sort(labels).tobytes()


@dataclass
class EqualCounts:
    """Rows of labels of which every valid subnet keeps equally many."""

    rows: IntArray
    reason: str

    @cached_property
    def keys(self) -> frozenset[bytes]:
        """Its rows as sets of labels, see ``set_key``."""
        return row_keys(np.sort(self.rows, axis=1))

    @cached_property
    def is_rigid(self) -> bool:
        """Whether a row is one channel, some of which must stay, so that all of the others do."""
        return bool((self.rows == self.rows[:, :1]).all(axis=1).any())

    @cached_property
    def are_disjoint(self) -> bool:
        """Whether no label is in its rows twice, and none is fixed."""
        return bool(self.rows.min() >= 0) and len(np.unique(self.rows)) == self.rows.size
