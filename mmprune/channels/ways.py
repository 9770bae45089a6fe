"""Which blocks of channels go whole, and which lose channels: learned from pass to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mmprune.channels.labels import IntArray, LabelBook


@dataclass(frozen=True)
class Ways:
    """What passes go by, see ``LabelBook``."""

    by_dims: frozenset[int] = frozenset()
    by_heads: frozenset[int] = frozenset()
    loose: frozenset[int] = frozenset()


def other_ways(book: LabelBook, num_labels: int, ways: Ways) -> Ways | None:
    """Other ways, where heads turn out to be pinned, or to be one decision; None if none are."""
    pinned = np.zeros(num_labels, bool)
    for labels, _ in book.pins:
        pinned[labels] = True

    def is_stuck(labels: IntArray) -> bool:
        is_one = labels.size > 1 and bool((labels == labels[0]).all())
        return is_one or bool(labels.min() < 0 or pinned[labels].any())

    stuck = {node for node, labels in book.heads if is_stuck(labels)} - ways.by_dims
    if stuck:
        return replace(ways, by_dims=ways.by_dims | stuck)
    whole = {node for node, labels in book.dims if is_stuck(labels)} - ways.by_heads
    if book.attention == 'heads' or not whole:
        return None
    return replace(ways, by_heads=ways.by_heads | whole)
