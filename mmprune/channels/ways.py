"""Which blocks of channels go whole, and which lose channels: learned from pass to pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.channels.facts import IntArray, Ways
from mmprune.channels.labels import LabelBook

PATIENCE = 8
"""After as many tries, more than one of the nodes that decide about the same channels give in."""


def other_ways(book: LabelBook, num_labels: int, tries: int = 0) -> Ways | None:
    """Other ways, where heads turn out to be pinned, or to be one decision; None if none are.

    Args:
        book: Of the last pass.
        num_labels: How many labels there are.
        tries: How often other ways were found before.
    """
    ways, pinned = book.ways, np.zeros(num_labels, bool)
    for labels, _ in book.pins:
        pinned[labels] = True

    def is_stuck(labels: IntArray) -> bool:
        is_one = labels.size > 1 and bool((labels == labels[0]).all())
        return is_one or bool(labels.min() < 0 or pinned[labels].any())

    stuck = [(n, labels) for n, labels in book.heads if n not in ways.by_dims and is_stuck(labels)]
    if stuck:
        most = 2 ** max(0, tries - PATIENCE)
        return replace(ways, by_dims=ways.by_dims | _last_of_each(stuck, most))
    whole = {node for node, labels in book.dims if is_stuck(labels)} - ways.by_heads
    if book.attention == 'heads' or not whole:
        return None
    return replace(ways, by_heads=ways.by_heads | whole)


def _last_of_each(stuck: list[tuple[int, IntArray]], most: int) -> frozenset[int]:
    """Of nodes that decide about the same channels the last: it need not be the fault of all."""
    found: list[tuple[int, set[int]]] = []
    for node, labels in sorted(stuck, key=lambda pair: -pair[0]):
        own = set(labels[labels >= 0].tolist())
        if not own or sum(not own.isdisjoint(other) for _, other in found) < most:
            found.append((node, own))
    return frozenset(node for node, _ in found)


def pinned_by_reason(book: LabelBook, canonical: IntArray) -> dict[str, BoolArray]:
    """Reason -> the labels that are pinned for it, (num_labels,) bool, before they were united."""
    found: dict[str, BoolArray] = {}
    for labels, reason in book.pins:
        found.setdefault(reason, np.zeros(len(canonical), bool))[labels] = True
    return {reason: pinned[canonical] for reason, pinned in found.items()}


def with_first_reasons(
    pins: list[tuple[IntArray, str]], before: Mapping[str, BoolArray], canonical: IntArray
) -> list[tuple[IntArray, str]]:
    """What is pinned, for the reasons that it had before other ways were tried in vain."""
    pinned = np.zeros(len(canonical), bool)
    for labels, _ in pins if before else ():
        pinned[labels] = True
    first = [(np.unique(canonical[labels]), reason) for reason, labels in before.items()]
    return [(labels[pinned[labels]], reason) for labels, reason in first] + pins
