"""Products of counts of kept channels: what every column of the cost is a sum of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, axes_of, kept

Cluster = tuple[IntArray, ...]
"""Label arrays that vary along the same dims or share some, broadcast against each other."""


def count_kept(alive: BoolArray, cluster: Cluster) -> int:
    """At how many positions all labels of the cluster are alive; those below 0 always are."""
    masks = [kept(alive, labels) for labels in cluster]
    return int(np.count_nonzero(reduce(np.logical_and, masks)))


@dataclass(frozen=True)
class Term:
    """``constant`` times the kept positions of every cluster, divided by ``divisor``.

    Attributes:
        what: The layer or tensor that it counts, for messages.
        constant: Of kernels, space and whatever else does not shrink.
        clusters: What shrinks. No two of them share a dim of the same tensor.
        divisor: Such as the number of groups of a convolution. It divides what it is
            applied to in every valid subnet.
    """

    what: str
    constant: int
    clusters: tuple[Cluster, ...]
    divisor: int = 1

    def value(self, alive: BoolArray) -> int:
        """The number for the subnet whose labels are ``alive``."""
        total = self.constant
        for cluster in self.clusters:
            total *= count_kept(alive, cluster)
        return total // self.divisor


def volume(what: str, shape: Sequence[int], factors: Iterable[IntArray], constant: int = 1) -> Term:
    """``constant`` times the number of elements of a tensor.

    Args:
        what: Its name.
        shape: Its shape in the full network.
        factors: Its label arrays, see ``mmprune.channels.labels``.
        constant: Such as the bytes of an element.
    """
    clusters: list[tuple[set[int], list[IntArray]]] = []
    for factor in factors:
        dims, members = set(axes_of(factor)), [factor]
        for other in [cluster for cluster in clusters if cluster[0] & dims]:
            clusters.remove(other)
            dims, members = dims | other[0], [*other[1], *members]
        clusters.append((dims, members))
    labelled = set().union(*(dims for dims, _ in clusters)) if clusters else set()
    free = [size for dim, size in enumerate(shape) if dim not in labelled]
    whole = constant * int(np.prod(free, dtype=np.int64))
    return Term(what, whole, tuple(tuple(members) for _, members in clusters))
