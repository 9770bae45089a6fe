"""Removes the channels that matter least, until a ratio or a budget is met."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.channels.member_values import shared_sums
from mmprune.cost import COLUMNS
from mmprune.errors import InputError, check_choice, of_others
from mmprune.latency import TableLatency
from mmprune.pruners.allocation import allocate_counts
from mmprune.pruners.budget import (
    Limits,
    check_budget,
    exchange,
    fewest_removals,
    use_up,
    warn_if_far,
)
from mmprune.pruners.patterns import Ratio, checked_ratios, first_patterns
from mmprune.pruners.removal import RankedGroup, RemovalOrder
from mmprune.pruners.rounding import select_rounded
from mmprune.pruners.structure_pruner import StructurePruner
from mmprune.pruners.subnet_costs import SubnetCosts
from mmprune.registry import PRUNERS
from mmprune.schema import Count, checked
from mmprune.supernet.supernet import Subnet
from mmprune.trace.tracer import DemoInput

ALLOCATIONS = ('threshold', 'milp')
SCOPES = ('global', 'isomorphic', 'local')
TOLERANCE = 0.01
"""Share of a budget that may be left unused without a word."""
Latency = Callable[[StructurePruner, Subnet], float]
"""``latency(pruner, subnet)``: a measured or predicted time, in any unit."""


@PRUNERS.register_module()
class ImportancePruner(StructurePruner):
    """Removes the channels of least importance, in one step or several.

    ``prune()`` sets the *pruned subnet*. It is the smallest subnet too; ``sample_subnet`` draws
    widths between it and the full ones, so a search or a training of many widths works in the space
    above it.

    Args:
        ratio: Share of the channels to keep, above 0 and at most 1, or shares by pattern of
            layer names: ``{'backbone.layer1.*': 0.75, '*': 0.5}``. The first pattern that
            matches a layer whose outputs a group holds is the group's; groups that none matches
            stay whole. ``*`` stands for anything; a pattern that begins with ``re:`` is a regular
            expression for the whole name. Or a JSON file of such shares, as
            ``tools/sensitivity.py`` writes. Give this or ``budget``.
        budget: Upper limits: ``dict(macs=..., params=..., latency=...)``, one or more. Up to
            1 they are shares of the full network's costs, above 1 numbers. The result costs at
            most as much, and at least 1 % less of the tightest limit where widths allow it.
        scope: Which scores are compared. ``'global'``: of all groups; ``'isomorphic'``: of
            groups whose layers are of the same kinds in the same roles, whatever their sizes, so
            that each such kind of group loses the same share (Fang et al., Isomorphic Pruning
            for Vision Models, 2024); ``'local'``: of one group, so that every group loses the
            same share. Between groups, scores are made comparable by the importance where its
            ``normalise`` is left out.
        score_per: What the scores between groups are divided by: what a channel of the group saves
            of ``'macs'``, ``'params'``, ``'activations'`` or another column of ``pruner.cost``,
            while all others stay. For the same loss, the most expensive channels go first. Not
            for the scope ``'local'``.
        allocation: How a budget is shared among the groups: ``'threshold'`` removes the lowest
            scores until it is met; ``'milp'`` chooses the widths that keep the highest sum of
            scores within it, by integer programs, see ``mmprune.pruners.allocation``. It starts
            from the widths of the threshold, and never keeps a lower sum.
        min_channels: Every group keeps this many channels, or all.
        max_removed: No group loses a higher share of its channels.
        importance: Config or instance of an importance.
        latency: ``latency(pruner, subnet)``, or a file that ``tools/latency.py`` has written, whose
            predictions are milliseconds.
        **kwargs: See ``StructurePruner``; ``round_to`` and ``except_start_keys`` among them.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        ratio: Ratio | None = None,
        budget: Mapping[str, float] | None = None,
        scope: str = 'global',
        score_per: str | None = None,
        allocation: str = 'threshold',
        min_channels: int = 1,
        max_removed: float = 0.9,
        importance: Any = None,
        latency: Latency | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            importance=dict(type='L1Importance') if importance is None else importance, **kwargs
        )
        if (ratio is None) == (budget is None):
            raise InputError('an ImportancePruner needs either ratio or budget')
        check_choice('scope', scope, SCOPES)
        if score_per is not None and (score_per not in COLUMNS or scope == 'local'):
            raise InputError(
                f'score_per must be one of {", ".join(map(repr, COLUMNS))}, for a scope that '
                f'compares groups; found {score_per!r} with scope={scope!r}'
            )
        _check_allocation(allocation, budget, scope, score_per, latency)
        if not 0 <= max_removed <= 1:
            raise InputError(f'max_removed must be a share from 0 to 1, not {max_removed!r}')
        self.ratios = None if ratio is None else checked_ratios(ratio, max_removed)
        self.budget = None if budget is None else check_budget(budget, latency is not None)
        self.scope, self.score_per, self.allocation = scope, score_per, allocation
        self.min_channels = checked(Count, min_channels, 'min_channels')
        self.max_removed = max_removed
        self.latency: Latency | None = (
            TableLatency(latency) if isinstance(latency, str | os.PathLike) else latency
        )
        self._pruned: dict[str, int] | None = None

    # -- data --------------------------------------------------------------------------

    def collect(
        self, batches: Iterable[Any], loss_fn: Callable[[nn.Module, Any], torch.Tensor]
    ) -> int:
        """Let an importance that looks at data see batches, see ``StructurePruner``."""
        self._pruned = None
        return super().collect(batches, loss_fn)

    # -- subnets -----------------------------------------------------------------------

    def prepare_from_supernet(
        self, supernet: nn.Module, demo_input: DemoInput | None = None
    ) -> None:
        """Trace a network and patch its modules, see ``StructurePruner``."""
        super().prepare_from_supernet(supernet, demo_input)
        self._pruned = None

    def prune(self, progress: float = 1, regrow: bool = True) -> Subnet:
        """Set the pruned subnet by the scores of now; return it.

        Args:
            progress: How far on the way from the full width (0) to the ratio or budget (1).
            regrow: Whether channels that the subnet lacks that is set now may come back.
        """
        counts, costs = self._find(progress, regrow)
        subnet = self.supernet.subnet_of(costs.alive(counts))
        self.set_subnet(subnet)
        if progress == 1:
            self._pruned = counts
        return subnet

    def remove(self, channels: int) -> bool:
        """Set a subnet with about so many channels fewer than the one that is set, greedily.

        Of what the ratio or budget takes by the scores of now, the lowest scores go. Where
        constraints or ``round_to`` let no group lose so few, the fewest go that can.

        Returns:
            Whether the ratio or budget is met, and the pruned subnet set.
        """
        counts, costs = self._find(1, regrow=False)
        leaving: list[tuple[float, str]] = []
        for space_id, group in self.supernet.prunable_groups.items():
            width = int(self.supernet.alive[group.labels].sum())
            scores = np.sort(costs.scores[space_id])[group.num_channels - width :]
            leaving += [(score, space_id) for score in scores[: width - counts[space_id]]]
        leaving.sort()
        for removals in range(channels, len(leaving)):
            stays = Counter(space_id for _, space_id in leaving[removals:])
            fewer = {space_id: n + stays[space_id] for space_id, n in counts.items()}
            alive = costs.alive(fewer)
            if (alive != self.supernet.alive).any() and (alive != costs.alive(counts)).any():
                self.set_subnet(self.supernet.subnet_of(alive))
                return False
        self.prune(1, regrow=False)
        return True

    def pruned_subnet(self, progress: float = 1, regrow: bool = True) -> Subnet:
        """What ``prune`` would set; nothing is set."""
        counts, costs = self._find(progress, regrow)
        return self.supernet.subnet_of(costs.alive(counts))

    def sample_subnet(self) -> Subnet:
        """Widths drawn between the pruned subnet's and the full ones, by numpy's random state."""
        counts = {
            space_id: np.random.randint(least, self.channel_groups[space_id].num_channels + 1)
            for space_id, least in self._pruned_counts().items()
        }
        return self.subnet_of_counts(counts)

    def set_min_channel(self) -> None:
        """Set the pruned subnet's widths; the scores of now say which channels."""
        self.set_subnet(self.subnet_of_counts(self._pruned_counts()))

    def _pruned_counts(self) -> dict[str, int]:
        """Widths of the pruned subnet, found once: weights change, the space does not."""
        if self._pruned is None:
            self._pruned = self._find(1, regrow=True)[0]
        return self._pruned

    # -- finding it --------------------------------------------------------------------

    def _find(self, progress: float, regrow: bool) -> tuple[dict[str, int], SubnetCosts]:
        """Channels to keep by group, and what says which ones."""
        groups = self.supernet.prunable_groups
        scores_of = self._scores if self.scope == 'local' else self.comparable_scores
        with shared_sums():
            scores = {space_id: scores_of(group) for space_id, group in groups.items()}
        if self.score_per is not None:
            alive = np.ones_like(self.supernet.alive) if regrow else self.supernet.alive
            scores = self._per_cost(scores, alive, self.score_per)
        gone = dict.fromkeys(groups, 0)
        if not regrow:
            for space_id, group in groups.items():
                lost = ~self.supernet.alive[group.labels]
                gone[space_id] = int(lost.sum())
                least = scores[space_id].min()
                scores[space_id] = np.where(lost, least - abs(least) - 1, scores[space_id])
        patterns = first_patterns(self.ratios or {'*': 1}, groups)
        order = RemovalOrder(
            [
                RankedGroup(
                    space_id,
                    scores[space_id],
                    (patterns[space_id], self._pool(group)),
                    self.floor(group) if patterns[space_id] is not None else group.num_channels,
                    gone[space_id],
                )
                for space_id, group in groups.items()
            ]
        )
        costs = SubnetCosts(
            self.supernet,
            scores,
            self.budget or (),
            self.select,
            self.measured_latency,
            self._predicted_latencies,
        )
        if self.budget is not None:
            return self._within_budget(order, costs, progress), costs
        kept = {
            pattern: 1 + progress * (share - 1) for pattern, share in (self.ratios or {}).items()
        }
        return order.counts_of_shares(lambda pool: kept.get(pool[0], 1.0)), costs

    def _per_cost(
        self, scores: Mapping[str, np.ndarray], alive: BoolArray, column: str
    ) -> dict[str, np.ndarray]:
        """Scores over what one channel saves of a cost, in a subnet."""

        def cost(labels: BoolArray) -> int:
            return self.supernet.cost_table.of(labels, [column])[column]

        full, found = cost(alive), {}
        for space_id, group in self.supernet.prunable_groups.items():
            width = int(alive[group.labels].sum())
            masks = (group.select(scores[space_id], count) for count in range(width - 1, 0, -1))
            fewer = next((mask for mask in masks if mask.sum() < width), None)
            if fewer is None:  # the last one goes with everything that reads it
                fewer = np.zeros(len(group.labels), bool)
            labels = alive.copy()
            labels[group.labels] = fewer
            saved = (full - cost(labels)) / (width - fewer.sum())
            found[space_id] = scores[space_id] / max(saved, 1)
        return found

    def _within_budget(
        self, order: RemovalOrder, costs: SubnetCosts, progress: float
    ) -> dict[str, int]:
        """The widest counts that meet the budget."""
        assert self.budget is not None
        limits = Limits.of(self.budget, costs.of(order.counts(0)), progress)
        first = order.num_gone
        removals = fewest_removals(
            limits,
            first,
            len(order),
            lambda removals: costs.of(order.counts(removals)),
            f'min_channels={self.min_channels} and max_removed={self.max_removed:g}',
        )
        most, least = order.counts(first), order.counts(len(order))
        wider, narrower = (partial(costs.towards, ends=ends) for ends in (most, least))
        if removals == first:
            return order.counts(first)
        wanted = (order.names[number] for number in order.group_of[first:removals][::-1])
        counts = use_up(limits, order.counts(removals), wanted, wider, costs.of)
        sizes = {space_id: len(scores) for space_id, scores in costs.scores.items()}
        room = {space_id: size // 8 for space_id, size in sizes.items()}
        counts = exchange(limits, counts, TOLERANCE, (narrower, wider), costs.of, room)
        if self.allocation == 'milp':
            return allocate_counts(costs, limits, counts, least, most)
        warn_if_far(limits, costs.of(counts), TOLERANCE)
        return counts

    def measured_latency(self, subnet: Subnet) -> float:
        """What ``latency`` says of a subnet.

        Raises:
            InputError: It is no time.
        """
        with of_others('latency(pruner, subnet) failed', 'It must return the time of a subnet.'):
            found = float(cast(Any, self.latency)(self, subnet))
        if not 0 < found < math.inf:
            raise InputError(f'latency(pruner, subnet) gave {found}, which is no time')
        return found

    def _predicted_latencies(self, widths: IntArray) -> np.ndarray:
        assert isinstance(self.latency, TableLatency)
        return 1e3 * self.latency.estimator(self.supernet).batch(widths)

    def floor(self, group: ChannelGroup) -> int:
        """How many channels a group keeps in any case."""
        share = int(np.ceil(group.num_channels * (1 - self.max_removed) - 1e-9))
        return min(group.num_channels, max(self.min_channels, share))

    def select(self, group: ChannelGroup, scores: np.ndarray, count: int) -> BoolArray:
        """The valid mask of about ``count`` channels, not rounded to below the group's floor."""
        floor = min(self.floor(group), max(count, 1))
        return select_rounded(group, scores, count, self.round_to, floor)

    def _pool(self, group: ChannelGroup) -> Hashable:
        """Groups with the same compare their scores."""
        if self.scope == 'local':
            return group.space_id
        if self.scope == 'global':
            return None
        return frozenset(Counter(self._kinds(group)).items())

    def _kinds(self, group: ChannelGroup) -> Iterator[Hashable]:
        """What each tensor of a group is, and whether its layer makes or reads the channels."""
        for member in group.members:
            layer, _, tensor = member.tensor.rpartition('.')
            kind = type(self.supernet.model.get_submodule(layer)).__name__
            yield kind, tensor, member.dims, layer in group.layers, layer in group.consumers


def _check_allocation(
    allocation: str,
    budget: Mapping[str, float] | None,
    scope: str,
    score_per: str | None,
    latency: Any,
) -> None:
    """Refuse an allocation that is none, or that the other options leave nothing to."""
    check_choice('allocation', allocation, ALLOCATIONS)
    if allocation == 'threshold':
        return
    if budget is None or scope != 'global' or score_per is not None:
        raise InputError(
            "allocation='milp' shares a budget so that the sum of scores is highest: it needs "
            f"budget, scope='global' and no score_per; found budget={budget!r}, scope={scope!r}, "
            f'score_per={score_per!r}'
        )
    if 'latency' in budget and not isinstance(latency, str | os.PathLike | TableLatency):
        raise InputError(
            "allocation='milp' asks for the latency of thousands of subnets: give the table that "
            "tools/latency.py writes, latency='latency.json', not a function that measures"
        )
