"""What a pruned network may cost, and the search for the widest one that costs no more."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from mmengine.logging import print_log

from mmprune.errors import InputError

Costs = Mapping[str, float]
Step = Callable[[dict[str, int], str], dict[str, int] | None]
"""From counts of channels and a group's name to counts in which that group is another width."""
UNITS = {'macs': 'MACs', 'params': 'parameters', 'latency': 'latency'}
"""What a budget may limit, and what it is called in messages."""
_CLOSE_ENOUGH = 1e-3
"""A budget of which no more than this share is left needs no further channels."""
_MOST_LOOKS = 500
"""Costs that are looked at before a budget is taken to be as used up as it can be."""


def check_budget(budget: Mapping[str, float], has_latency: bool) -> dict[str, float]:
    """Return a config's budget, if it is one.

    Args:
        budget: Limits by name: ``macs``, ``params``, ``latency``; up to 1 they are shares of
            the full network's, above 1 numbers.
        has_latency: Whether latency can be measured.

    Raises:
        InputError: It has no limits, or others, or one that is not above 0.
    """
    if not isinstance(budget, Mapping) or not budget or budget.keys() - UNITS.keys():
        keys = list(budget) if isinstance(budget, Mapping) else []
        raise InputError(
            f'budget must be a dict with some of the keys {", ".join(UNITS)}, not {budget!r}'
            f'{about_macs(keys)}'
        )
    for name, limit in budget.items():
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise InputError(f'budget: the limit of {name} must be a number above 0, not {limit!r}')
    if 'latency' in budget and not has_latency:
        raise InputError(
            'budget: a limit of latency needs latency=<function of (pruner, subnet)> that measures '
            'or predicts it'
        )
    return dict(budget)


def about_macs(names: Iterable[str]) -> str:
    """What to say to limits of FLOPs, which people count in two ways."""
    if not any('flop' in str(name).lower() for name in names):
        return ''
    return (
        '. Costs are counted in MACs (multiply-adds), and one MAC is two FLOPs: give macs=<half of '
        'the number of FLOPs>, or a share of the full network, macs=0.5, which is the same for both'
    )


@dataclass(frozen=True)
class Limits:
    """Upper limits by name, in absolute numbers, and the full network's costs.

    Attributes:
        limits: What may not be exceeded.
        full: What the full network costs.
    """

    limits: Costs
    full: Costs

    @classmethod
    def of(cls, budget: Mapping[str, float], full: Costs, progress: float = 1) -> Limits:
        """The limits of a budget on the way to it.

        Args:
            budget: As a config gives it.
            full: Cost of the full network.
            progress: 0 for the full network's costs, 1 for the budget.
        """
        wanted = {n: v * full[n] if v <= 1 else v for n, v in budget.items()}
        limits = {n: full[n] + progress * (min(v, full[n]) - full[n]) for n, v in wanted.items()}
        return cls(limits, full)

    def fit(self, costs: Costs) -> bool:
        """Whether no limit is exceeded."""
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def use(self, costs: Costs) -> float:
        """The share of the tightest limit that is used."""
        return max(costs[name] / limit for name, limit in self.limits.items())

    def about_percents(self) -> str:
        """What to say to limits that look like percents."""
        percents = [n for n, v in self.limits.items() if 1 < v <= 100 and n != 'latency']
        return ''.join(f'; half of the {UNITS[name]} is {name}=0.5, not 50' for name in percents)

    def describe(self, costs: Costs) -> str:
        """Costs beside limits, for a person."""
        return ', '.join(
            f'{_number(costs[name])} of at most {_number(limit)} {UNITS[name]} '
            f'({costs[name] / self.full[name]:.2%} of the full {_number(self.full[name])})'
            for name, limit in self.limits.items()
        )


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.4g}'


def fewest_removals(
    limits: Limits, first: int, last: int, costs_of: Callable[[int], Costs], floors: str
) -> int:
    """The smallest number of removals, ``first`` to ``last``, that meets all limits.

    Bisection: more removals never cost more.

    Args:
        limits: The budget.
        first: Removals that are made in any case.
        last: All that may be made.
        costs_of: Costs after a number of removals.
        floors: What keeps channels, for the message.

    Raises:
        InputError: Not even ``last`` removals are enough.
    """
    smallest = costs_of(last)
    if not limits.fit(smallest):
        raise InputError(
            f'the budget cannot be met: with every group as narrow as {floors} allow, the network '
            f'costs {limits.describe(smallest)}. Raise the budget, or lower the floors'
            f'{limits.about_percents()}'
        )
    return bisect_left(range(last), True, first, key=lambda number: limits.fit(costs_of(number)))


def use_up(
    limits: Limits,
    counts: dict[str, int],
    candidates: Iterable[str],
    wider: Step,
    costs_of: Callable[[Mapping[str, int]], Costs],
) -> dict[str, int]:
    """Give channels back one by one where the last removal took more than was needed.

    Args:
        limits: The budget, which ``counts`` meets.
        counts: Channels kept by group.
        candidates: Names of groups, the most wanted channel's first; repeated per channel.
        wider: Counts with a little more of a group; None if there is no more of it.
        costs_of: Costs of counts.

    Returns:
        Counts that meet the budget and leave no candidate room.
    """
    closed: set[str] = set()
    for name in candidates:
        if limits.use(costs_of(counts)) > 1 - _CLOSE_ENOUGH:
            break
        more = None if name in closed else wider(counts, name)
        if more is not None and limits.fit(costs_of(more)):
            counts = more
        else:
            closed.add(name)  # costs only grow from here on
    return counts


def exchange(
    limits: Limits,
    counts: dict[str, int],
    tolerance: float,
    steps: tuple[Step, Step],
    costs_of: Callable[[Mapping[str, int]], Costs],
    room: Mapping[str, int],
) -> dict[str, int]:
    """Take a little of one group, and give it to others, to use more of a budget.

    For small networks, where one channel is more than the tolerance. Each round makes the
    exchange that uses the most, or the first that comes close enough. No group moves further
    than one step, or ``room``, so that importance still decides.

    Args:
        limits: The budget, which ``counts`` meets.
        counts: Channels kept by group.
        tolerance: Share of the budget that may be left.
        steps: Counts with a little less, and with a little more, of a group; None if there
            are no such.
        costs_of: Costs of counts.
        room: Channels by which a group may become wider or narrower in several steps.
    """
    start = counts
    looks = 0

    def step(number: int, counts: dict[str, int], name: str) -> dict[str, int] | None:
        moved = steps[number](counts, name)
        if moved is None or abs(moved[name] - start[name]) <= room[name]:
            return moved
        return moved if counts[name] == start[name] else None

    def fill(counts: dict[str, int], first: str) -> dict[str, int]:
        """Give as much as fits, to one group first."""
        nonlocal looks
        for name in (first, *counts):
            more = step(1, counts, name)
            while more is not None and limits.fit(costs_of(more)):
                counts, more = more, step(1, more, name)
                looks += 1
            looks += 1
        return counts

    used = limits.use(costs_of(counts))
    while used < 1 - tolerance and looks < _MOST_LOOKS:
        best, before = counts, used
        for less, first in product([step(0, counts, name) for name in counts], counts):
            if less is None or used >= 1 - tolerance or looks >= _MOST_LOOKS:
                continue
            option = fill(less, first)
            share = limits.use(costs_of(option))
            if share > used:
                best, used = option, share
        if used == before:
            break
        counts = best
    return counts


def warn_if_far(limits: Limits, costs: Costs, tolerance: float) -> None:
    """Say so where the widths that there are leave more of a budget unused than is allowed."""
    if limits.use(costs) < 1 - tolerance:
        print_log(
            f'No widths come within {tolerance:.0%} of the budget: {limits.describe(costs)}. The '
            'next wider ones cost more than the budget, because a group, by its size, its '
            'constraints or round_to, cannot lose fewer channels at a time.',
            logger='current',
            level=logging.WARNING,
        )
