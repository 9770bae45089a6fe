"""Subnets whose groups each keep one of a list of ratios of their channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmprune.channels.constraints import round_half_up
from mmprune.errors import InputError
from mmprune.pruners.structure_pruner import StructurePruner
from mmprune.registry import PRUNERS
from mmprune.schema import Share, checked
from mmprune.supernet.supernet import Subnet


@PRUNERS.register_module()
class RatioPruner(StructurePruner):
    """Draws a ratio per group, and keeps that share of its channels.

    Args:
        ratios: Shares of channels to choose from, each above 0 and at most 1.
        **kwargs: See ``StructurePruner``.
    """

    def __init__(self, ratios: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        several = isinstance(ratios, Iterable) and not isinstance(ratios, str)
        shares = checked(list[Share], list(ratios) if several else ratios, 'ratios')
        if not shares:
            raise InputError('ratios: expected numbers above 0 up to 1, found none')
        self.ratios = self.shares = tuple(sorted(shares))

    def subnet_of_ratio(self, ratio: float) -> Subnet:
        """The subnet in which every group keeps ``ratio`` of its channels, at least one."""
        ratio = checked(Share, ratio, 'ratio')
        return self._subnet_of_ratios([ratio] * len(self.supernet.prunable_groups))

    def sample_subnet(self) -> Subnet:
        """A ratio drawn anew for every group, by numpy's global random state."""
        return self._subnet_of_ratios(
            np.random.choice(self.ratios, len(self.supernet.prunable_groups))
        )

    def _subnet_of_ratios(self, ratios: Iterable[float]) -> Subnet:
        groups = self.supernet.prunable_groups.items()
        return self.subnet_of_counts(
            {
                space_id: max(1, round_half_up(group.num_channels * ratio))
                for (space_id, group), ratio in zip(groups, ratios, strict=True)
            }
        )

    def set_min_channel(self) -> None:
        """Set the smallest ratio everywhere."""
        self.set_subnet(self.subnet_of_ratio(self.ratios[0]))
