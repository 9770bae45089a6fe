"""The methods of pruners that a search calls: choices in, subnets and costs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import round_half_up
from mmprune.channels.labels import IntArray
from mmprune.cost import CostError
from mmprune.errors import InputError
from mmprune.pruners.budget import Limits, check_budget
from mmprune.pruners.prepared import Prepared
from mmprune.pruners.search_space import Choices, SearchSpace, check_choices, nearest_within
from mmprune.supernet.supernet import Subnet


class Searching(Prepared):
    """What pruners answer to a search; see docs/search.md."""

    shares: Sequence[float] = tuple(eighth / 8 for eighth in range(1, 9))
    """Shares of a group's channels that a search chooses from."""

    def search_space(self, shares: Sequence[float] | None = None) -> SearchSpace:
        """The widths of every group between the pruner's smallest subnet and the full one.

        Args:
            shares: The shares of a group's channels to choose from, above 0 and at most 1; if None
                the ratios of a pruner that has a list of them, else every eighth, and the smallest
                subnet's. Constraints and ``round_to`` say which numbers of channels these are.

        Raises:
            InputError: A share is no such number.
        """
        own, shares = shares is None, self.shares if shares is None else shares
        if not shares or not all(0 < share <= 1 for share in shares):
            raise InputError(f'shares must be numbers above 0 and at most 1, not {shares!r}')
        narrowest = self.smallest_subnet()
        masks = {
            space_id: self._masks(group, shares, narrowest[space_id], own)
            for space_id, group in self.supernet.prunable_groups.items()
        }
        constraints = {
            space_id: '; '.join(each.reason for each in group.constraints)
            for space_id, group in self.supernet.prunable_groups.items()
        }
        space = SearchSpace(masks, constraints, {})
        of_whom = {
            name: space.subnet_at([round(share * (len(widths) - 1)) for widths in space.values()])
            for name, share in (('smallest', 0), ('median', 0.5), ('largest', 1))
        }
        costs = self.costs(list(of_whom.values()))
        return SearchSpace(masks, constraints, dict(zip(of_whom, costs, strict=True)))

    def _masks(
        self, group: ChannelGroup, shares: Sequence[float], narrowest: torch.Tensor, with_it: bool
    ) -> dict[int, torch.Tensor]:
        """Widths of a group, narrowest first -> which channels they keep."""
        scores, least = self._scores(group), int(narrowest.sum())
        counts = [max(1, round_half_up(share * group.num_channels)) for share in shares]
        found = [self.select(group, scores, count) for count in counts if count >= least]
        masks = {
            int(mask.sum()): torch.from_numpy(mask).to(narrowest).view_as(narrowest)
            for mask in found
        }
        masks = {width: mask for width, mask in masks.items() if width >= least}
        if with_it or not masks:
            masks[least] = narrowest
        return dict(sorted(masks.items()))

    def full_subnet(self) -> Subnet:
        """The subnet that keeps everything; nothing is set."""
        return self.supernet.subnet_of(np.ones(self.supernet.size, bool))

    def smallest_subnet(self) -> Subnet:
        """The subnet of ``set_min_channel``; nothing is set."""
        before = self.supernet.alive
        self.set_min_channel()
        narrowest = self.supernet.subnet_of(self.supernet.alive)
        self.supernet.set_alive(before)
        return narrowest

    def subnet_from(self, choices: Choices) -> Subnet:
        """The subnet that keeps ``choices[space_id]`` channels of groups, and all of the others.

        The importance of now says which; constraints and ``round_to`` may round a number.

        Raises:
            InputError: A group is unknown, or has not so many channels.
        """
        groups = self.supernet.prunable_groups
        check_choices(choices, groups)
        for space_id, count in choices.items():
            if count > groups[space_id].num_channels:
                raise InputError(
                    f"choices: '{space_id}' cannot keep {count} channels of "
                    f'{groups[space_id].num_channels}'
                )
        full = {space_id: group.num_channels for space_id, group in groups.items()}
        return self.subnet_of_counts({**full, **choices})

    def costs(
        self, subnets: Sequence[Mapping[str, torch.Tensor]], widths: IntArray | None = None
    ) -> list[dict[str, float]]:
        """MACs and parameters of subnets, all at once where widths tell them.

        Args:
            subnets: The subnets.
            widths: Their kept channels, (subnets, groups), if they are known already.
        """
        table = self.cost_table()
        if not subnets:
            return []
        if widths is None:
            widths = np.stack([table.widths_of(subnet) for subnet in subnets])
        try:
            found = table.batch(widths)
        except CostError:  # they depend on which channels are kept
            return [dict(self.cost(subnet)) for subnet in subnets]
        return [
            dict(zip(found, row, strict=True))
            for row in zip(*(column.tolist() for column in found.values()), strict=True)
        ]

    def repair(
        self, choices: Choices, budget: Mapping[str, float], space: SearchSpace | None = None
    ) -> dict[str, int]:
        """The choices of the space that are nearest to a wish and within a budget.

        None is wider than is wished, and none can be a step wider within the budget. All groups
        give up about the same share of the way to their narrowest width.

        Args:
            choices: The wish; groups that are left out stay whole. Numbers that are not among
                a group's choices stand for the nearest one.
            budget: ``dict(macs=..., params=...)``: shares of the full network's up to 1, above
                that numbers.
            space: What there is to choose from; ``search_space()`` if None. Give it where many
                choices are repaired: to make one takes longer.

        Raises:
            InputError: Not even the smallest subnet is within the budget, or a group is unknown.
        """
        space = space or self.search_space()
        limits = Limits.of(check_budget(budget, False), space.costs['largest'])

        def fits(wishes: Sequence[Sequence[int]]) -> list[bool]:
            subnets = [space.subnet_at(levels) for levels in wishes]
            return [limits.fit(cost) for cost in self.costs(subnets, space.widths_at(wishes))]

        found = nearest_within(space, choices, fits)
        if found is None:
            raise InputError(
                'no subnet is within the budget: the smallest one costs '
                f'{limits.describe(space.costs["smallest"])}'
            )
        return found
