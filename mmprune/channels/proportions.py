"""Sets of channels that a group's constraints let shrink in proportion only."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

import numpy as np

from mmprune.channels.labels import IntArray

Linked = list[tuple[IntArray, int]]
"""Sets of channels with weights: of each set ``t * weight`` channels are kept, for one ``t``."""


def proportions(constraints: Iterable[IntArray]) -> list[Linked] | None:
    """The sets that shrink together, if the constraints say no more than that.

    A block may be channels of one group of layers, and another one heads that each count as
    many channels. A block may also be made up of smaller ones (the width of attention, of its
    heads). Then of every set of channels some share is kept, the same for all that are tied:
    all constraints hold where everything is kept, so no other proportion can be asked for.

    Args:
        constraints: Blocks that keep equally many channels, (blocks, size) each; a channel
            that is in a block twice counts twice.

    Returns:
        None if blocks overlap otherwise, or are made up of sets that shrink independently.
    """
    constraints = list(constraints)
    if len(constraints) == 1 and len(np.unique(constraints[0])) == constraints[0].size:
        return [[(block, 1) for block in np.sort(constraints[0], axis=1)]]
    rows = [list(blocks) for blocks in constraints]
    sets, owner = _smallest([block for row in rows for block in row])
    made_of = [[_made_of(block, owner) for block in row] for row in rows]
    if not sets or any(not block for row in made_of for block in row):
        return None
    root = np.arange(len(sets))
    while True:
        before = root.copy()
        for row in made_of:
            known = [block for block in row if len(set(root[block].tolist())) == 1]
            for block in known[1:]:
                root[root == root[block[0]]] = root[known[0][0]]
        if (root == before).all():
            break
    if any(len(set(root[block].tolist())) > 1 for row in made_of for block in row):
        return None
    return [_weighted([sets[n] for n in np.flatnonzero(root == one)]) for one in np.unique(root)]


def _smallest(blocks: list[IntArray]) -> tuple[list[IntArray], IntArray]:
    """Disjoint sets of channels that all blocks are made of, and the number of each one's set.

    There are none if some blocks overlap in part.
    """
    members = {np.unique(block).tobytes(): np.unique(block) for block in blocks}
    owner = np.full(1 + max(int(channels[-1]) for channels in members.values()), -1)
    sets: list[IntArray] = []
    for channels in sorted(members.values(), key=len):
        owners, counts = np.unique(owner[channels], return_counts=True)
        if owners[-1] < 0:
            owner[channels] = len(sets)
            sets.append(channels)
        elif owners[0] < 0 or any(len(sets[n]) != c for n, c in zip(owners, counts, strict=True)):
            return [], owner
    return sets, owner


def _made_of(block: IntArray, owner: IntArray) -> list[int]:
    """Numbers of the sets of a block; none if it does not count all channels of a set alike."""
    channels, times = np.unique(block, return_counts=True)
    numbers = np.unique(owner[channels]).tolist()
    alike = all(len(np.unique(times[owner[channels] == number])) == 1 for number in numbers)
    return numbers if alike else []


def _weighted(sets: list[IntArray]) -> Linked:
    """Sets of which the same share is kept, with the smallest whole weights."""
    divisor = gcd(*(len(channels) for channels in sets))
    return [(channels, len(channels) // divisor) for channels in sets]
