"""Where a search begins: widths that are known to be sensible before any is evaluated."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

from mmprune.channels.constraints import round_half_up
from mmprune.datafiles import read_data
from mmprune.errors import InputError
from mmprune.pruners import StructurePruner
from mmprune.pruners.patterns import checked_ratios, first_patterns
from mmprune.pruners.removal import RankedGroup, RemovalOrder
from mmprune.pruners.search_space import Choices, SearchSpace

BY_IMPORTANCE = 'importance'
Fit = Callable[[Choices], bool]
"""Whether the choices of a space are within a budget."""


def start_point(name: str, pruner: StructurePruner, space: SearchSpace) -> Callable[[Fit], Choices]:
    """The widths of a start point; they may cost more than the budget that they are asked for.

    Args:
        name: ``'uniform'``, ``'largest'``, ``'smallest'``, ``'importance'``, or a file: a channel
            config, or ratios by group, as ``tools/sensitivity.py`` writes them.
        pruner: Of the supernet.
        space: What there is to choose from.

    Raises:
        InputError: The pruner has no importance, or the file is of another network.
    """
    if name == BY_IMPORTANCE:
        return _by_importance(pruner, space)
    if name in ('uniform', 'largest', 'smallest'):
        end = 0 if name == 'smallest' else -1
        choices: Choices = {space_id: widths[end] for space_id, widths in space.items()}
    else:
        choices = _of_file(name, pruner)
    return lambda fits: choices


def _of_file(path: str, pruner: StructurePruner) -> Choices:
    content = read_data(path, 'a channel config, or ratios by group')
    is_ratios = isinstance(content, dict) and all(
        isinstance(share, int | float) for share in content.values()
    )
    if not is_ratios:
        subnet = pruner.load_channel_cfg(path)
        return {space_id: int(mask.sum()) for space_id, mask in subnet.items()}
    ratios, groups = checked_ratios(path, 1), pruner.supernet.prunable_groups
    return {
        space_id: max(1, round_half_up(ratios[pattern] * groups[space_id].num_channels))
        for space_id, pattern in first_patterns(ratios, groups).items()
        if pattern is not None
    }


def _by_importance(pruner: StructurePruner, space: SearchSpace) -> Callable[[Fit], Choices]:
    """The widths that are left when the lowest scores of all groups go, just over the budget."""
    if pruner.importance is None:
        raise InputError(
            "start='importance': the pruner keeps the first channels of every layer, by no "
            "importance: give it one, model.pruner.importance='L1'"
        )
    groups = pruner.supernet.prunable_groups
    order = RemovalOrder(
        [
            RankedGroup(space_id, pruner.comparable_scores(groups[space_id]), None, widths[0])
            for space_id, widths in space.items()
        ]
    )

    def choices(removals: int) -> Mapping[str, int]:
        return space.at(space.levels(order.counts(removals)))

    def last_that_does_not_fit(fits: Fit) -> Choices:
        removals = bisect_left(range(len(order)), True, key=lambda n: fits(choices(n)))
        return choices(max(removals - 1, 0))

    return last_that_does_not_fit
