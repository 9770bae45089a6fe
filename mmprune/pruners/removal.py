"""In which order channels are removed, over all groups of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmprune.channels.constraints import round_half_up


@dataclass(frozen=True)
class RankedGroup:
    """What deciding about one group's width needs.

    Attributes:
        space_id: Its name.
        scores: One per channel, (C,); low ones go first, of equal ones the last channel.
        pool: Anything hashable. Groups of one pool compare their scores with each other.
        floor: Channels that must stay.
        gone: Channels that are removed already, those with the lowest scores.
    """

    space_id: str
    scores: np.ndarray
    pool: Any
    floor: int = 1
    gone: int = 0


class RemovalOrder:
    """One list of removals over all groups; its first n give the widths for n.

    Within a pool the lowest score goes first. Pools take turns by the share of their channels
    that is removed, so each loses the same share at every n. Removals below a group's
    floor are left out; what is gone already comes first.

    Args:
        groups: The groups, in order of execution.
    """

    def __init__(self, groups: Sequence[RankedGroup]) -> None:
        self.groups = list(groups)
        sizes = np.array([len(group.scores) for group in self.groups], int)
        self.sizes = sizes
        number = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.cumsum(sizes) - sizes
        place = np.arange(len(number)) - starts[number]  # the how-maniest of its group to go
        scores = np.concatenate([np.sort(group.scores) for group in self.groups] or [np.zeros(0)])
        pools = {group.pool: None for group in self.groups}
        pool_number = {pool: i for i, pool in enumerate(pools)}
        pool = np.array([pool_number[group.pool] for group in self.groups], int)[number]
        by_pool = np.lexsort((scores, pool))
        pool_sizes = np.bincount(pool, minlength=len(pools))
        share = np.empty(len(number))
        rank = np.arange(len(number)) - (np.cumsum(pool_sizes) - pool_sizes)[pool[by_pool]]
        share[by_pool] = (rank + 0.5) / pool_sizes[pool[by_pool]]
        gone = np.array([group.gone for group in self.groups], int)[number]
        floor = np.array([group.floor for group in self.groups], int)[number]
        share[place < gone] = -1
        order = np.lexsort((np.arange(len(number)), share))
        order = order[(place < np.maximum(sizes[number] - floor, gone))[order]]
        self.group_of = number[order]
        self.pool_of = pool[order]
        self.pools = list(pools)
        self.pool_sizes = pool_sizes.tolist()
        self.names = [group.space_id for group in self.groups]
        self.num_gone = int(sum(group.gone for group in self.groups))

    def __len__(self) -> int:
        """How many channels may be removed in all."""
        return len(self.group_of)

    def counts(self, removals: int) -> dict[str, int]:
        """Channels that every group keeps after the first ``removals``."""
        return self._counts(self.group_of[:removals])

    def counts_of_shares(self, kept: Callable[[Any], float]) -> dict[str, int]:
        """Channels that every group keeps if every pool keeps its share.

        Floors win over shares; it is said where they leave a pool of several groups wider.

        Args:
            kept: Share of its channels that a pool keeps, above 0 and at most 1.
        """
        chosen = []
        for number, pool in enumerate(self.pools):
            size = self.pool_sizes[number]
            wanted = size - round_half_up(size * kept(pool))
            own = self.group_of[self.pool_of == number]
            members = [group for group in self.groups if group.pool == pool]
            if wanted > len(own) and len(members) > 1:
                print_log(
                    f'A ratio of {kept(pool):g} leaves {size - wanted} of the {size} channels of '
                    f'{len(members)} groups ({members[0].space_id} first), but {size - len(own)} '
                    'must stay (min_channels and max_removed).',
                    logger='current',
                    level=logging.WARNING,
                )
            chosen.append(own[: max(wanted, sum(group.gone for group in members))])
        return self._counts(np.concatenate(chosen or [np.zeros(0, int)]))

    def _counts(self, removed: np.ndarray) -> dict[str, int]:
        kept = self.sizes - np.bincount(removed, minlength=len(self.sizes))
        return {g.space_id: int(n) for g, n in zip(self.groups, kept, strict=True)}
