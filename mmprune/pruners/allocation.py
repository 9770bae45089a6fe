"""The widths of all groups together, under limits, that keep the most: an integer program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from mmprune.channels.labels import IntArray
from mmprune.pruners.budget import Limits
from mmprune.pruners.subnet_costs import SubnetCosts

Use = Callable[[IntArray], np.ndarray]
"""From numbers of options, (subnets, groups), to the shares of the limits, (subnets, limits)."""
_VARIABLES = 800
"""Pairs of options in a program, about: more of them take longer than they gain."""
_MOST, _FEWEST = 8, 3
"""Options of a group in a program."""
_NODES = 5
"""Of the branch and bound; a limit on seconds would give other widths on another machine."""
_GAP = 2e-4
"""Of the worth, by which a program may miss its optimum, per step that its options reach."""
_EXACT = 400
"""A program of so many variables has all options, and is solved to its optimum."""
_TRIES = 4


def allocate_counts(
    costs: SubnetCosts,
    limits: Limits,
    counts: dict[str, int],
    least: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """The numbers of channels within limits that keep the highest sum of scores.

    Args:
        costs: What counts cost and are worth.
        limits: The budget.
        counts: Numbers that meet it.
        least: The fewest channels of every group.
        most: And the most.
    """
    options = [
        costs.options(space_id, least[space_id], most[space_id], count)
        for space_id, count in counts.items()
    ]
    values = [
        np.array([costs.worth(space_id, count) for count in own])
        for space_id, own in zip(counts, options, strict=True)
    ]
    limit = np.array([limits.limits[name] for name in costs.names])

    def use(choices: IntArray) -> np.ndarray:
        columns = [np.array(own)[choice] for own, choice in zip(options, choices.T, strict=True)]
        return costs.batch(np.stack(columns, axis=1)) / limit

    start = [own.index(count) for own, count in zip(options, counts.values(), strict=True)]
    found = allocate(values, use, np.array(start))
    return {name: own[i] for name, own, i in zip(counts, options, found.tolist(), strict=True)}


def allocate(values: Sequence[np.ndarray], use: Use, start: IntArray) -> IntArray:
    """Choose an option for every group, so that they are worth the most within the limits.

    As in Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (HALP), 2022, and Sun et
    al., "MDP: Multidimensional Vision Model Pruning with Latency Constraint", 2025, each option
    is a binary variable. What a layer costs depends on two groups, its inputs and outputs: so a
    program has a variable for every pair of options that meet in a layer, with their exact cost.
    It has some options of each group, first over their whole range, then ever closer around the
    best that was found, which is always one of them.

    What depends on more than two groups at once is as around the best so far, and the true cost
    is looked at before a choice is taken.

    Args:
        values: What the options of each group are worth, from the cheapest to the dearest.
        use: What choices cost, of which none may be above 1.
        start: A choice within the limits.

    Returns:
        A choice within the limits, (groups,), worth at least as much as ``start``.
    """
    best = start.copy()
    last = np.array([len(each) - 1 for each in values])
    pairs = _pairs(use, best, last)
    if (last[pairs] + 1).prod(axis=1).sum() + (last + 1).sum() <= _EXACT:
        every = [np.arange(end + 1) for end in last]
        return _better(values, best, _solve(values, use, best, pairs, every, 1e-6, None))
    if len(pairs) * _FEWEST**2 > 10 * _VARIABLES:  # all with all, as behind dense concatenations
        pairs = pairs[:0]
    count = int(np.clip((_VARIABLES / max(len(pairs), 1)) ** 0.5, _FEWEST, _MOST))
    reach = int(last.max(initial=0))
    while reach:
        picks = [
            np.unique(np.append(np.linspace(low, high, count).round().astype(int), at))
            for low, high, at in zip(
                np.maximum(best - reach, 0), np.minimum(best + reach, last), best, strict=True
            )
        ]
        found = _solve(values, use, best, pairs, picks, _GAP * reach, _NODES)
        before, best = best, _better(values, best, found)
        if _worth(values, best) - _worth(values, before) <= _GAP * abs(_worth(values, best)):
            reach //= 2
        count = min(count, max(_FEWEST, count // 2 + 1))
    return best


def _better(values: Sequence[np.ndarray], one: IntArray, other: IntArray | None) -> IntArray:
    return one if other is None or _worth(values, other) <= _worth(values, one) else other


def _worth(values: Sequence[np.ndarray], choice: IntArray) -> float:
    return float(sum(each[number] for each, number in zip(values, choice, strict=True)))


def _pairs(use: Use, at: IntArray, last: IntArray) -> IntArray:
    """Pairs of groups whose costs are more than the sum of each one's, (pairs, 2)."""
    first, second = np.triu_indices(len(at), 1)
    ends = np.where(at > last / 2, 0, last)
    alone = use(_changed(at, np.arange(len(at))[:, None], ends[:, None])) - use(at[None])
    pairs = np.stack([first, second], axis=1)
    both = use(_changed(at, pairs, ends[pairs])) - use(at[None])
    more = np.abs(both - alone[first] - alone[second])
    return pairs[(more > 1e-9 * (np.abs(both) + 1e-6)).any(axis=1)]


def _changed(at: IntArray, groups: IntArray, options: IntArray) -> IntArray:
    """A row for each row of ``groups``, in which these have ``options``."""
    rows = np.repeat(at[None], len(groups), axis=0)
    np.put_along_axis(rows, groups, options, axis=1)
    return rows


def _solve(
    values: Sequence[np.ndarray],
    use: Use,
    at: IntArray,
    pairs: IntArray,
    picks: Sequence[IntArray],
    gap: float,
    nodes: int | None,
) -> IntArray | None:
    """The best choice among some options of each group; None if none was found.

    Args:
        values: See ``allocate``.
        use: See ``allocate``.
        at: A choice around which all costs are seen.
        pairs: Pairs of groups that have costs together.
        picks: The options of each group.
        gap: By how much the worth may miss the optimum, relative to it.
        nodes: Of the branch and bound.
    """
    sizes = np.array([len(each) for each in picks])
    place = np.cumsum(sizes) - sizes  # of the first variable of each group
    owner, option = np.repeat(np.arange(len(picks)), sizes), np.concatenate(picks)
    meeting = [np.indices((sizes[a], sizes[b])).reshape(2, -1).T + place[[a, b]] for a, b in pairs]
    both = np.concatenate([np.zeros((0, 2), int), *meeting])
    base = use(at[None])
    alone = use(_changed(at, owner[:, None], option[:, None])) - base
    together = use(_changed(at, owner[both], option[both])) - base - alone[both].sum(axis=1)
    cost = np.concatenate([alone, together]).T
    worth = np.concatenate([each[numbers] for each, numbers in zip(values, picks, strict=True)])
    structure = _structure(owner, np.repeat(np.arange(len(pairs)), [len(m) for m in meeting]), both)
    room = 1 - base[0]
    for _ in range(_TRIES):
        result = milp(
            np.append(-worth, np.zeros(len(both))) / (np.abs(worth).max() or 1),
            constraints=[structure, LinearConstraint(cost, -np.inf, room)],
            integrality=np.arange(cost.shape[1]) < len(owner),
            bounds=Bounds(0, 1),
            options=dict(mip_rel_gap=gap, **({} if nodes is None else dict(node_limit=nodes))),
        )
        if result.x is None:
            return None
        parts = np.split(result.x[: len(owner)], place[1:])
        chosen = np.array([numbers[p.argmax()] for numbers, p in zip(picks, parts, strict=True)])
        over = use(chosen[None])[0] - 1
        if (over <= 0).all():
            return chosen
        room = room - np.maximum(1.5 * over, 0)
    return None


def _structure(owner: IntArray, pair: IntArray, both: IntArray) -> LinearConstraint:
    """One option of each group, and of each pair of groups the pair of theirs.

    Args:
        owner: The group of every option.
        pair: The pair of groups of every pair of options.
        both: Its two options, (pairs of options, 2).
    """
    rows, columns, numbers = [owner], [np.arange(len(owner))], [np.ones(len(owner))]
    total = int(owner[-1]) + 1
    right = [np.ones(total)]
    for side in both.T:
        known, row = np.unique(pair * len(owner) + side, return_inverse=True)
        rows += [total + row, total + np.arange(len(known))]
        columns += [len(owner) + np.arange(len(pair)), known % len(owner)]
        numbers += [np.ones(len(pair)), -np.ones(len(known))]
        right.append(np.zeros(len(known)))
        total += len(known)
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_array((np.concatenate(numbers), places), (total, len(owner) + len(pair)))
    equal = np.concatenate(right)
    return LinearConstraint(matrix.tocsr(), equal, equal)
