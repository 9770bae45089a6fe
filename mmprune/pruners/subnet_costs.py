"""What subnets cost by their numbers of channels, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.cost import CostError
from mmprune.supernet.supernet import Subnet, Supernet

_OPTIONS = 64
Counts = Mapping[str, int]
Select = Callable[[ChannelGroup, np.ndarray, int], BoolArray]


@dataclass(eq=False)
class SubnetCosts:
    """Costs of counts of channels, the kept ones being those with the highest scores.

    Attributes:
        supernet: The prepared network.
        scores: One per channel of every prunable group.
        names: Which costs: ``macs``, ``params``, ``latency``.
        select: The valid mask of about so many channels of a group.
        latency: Measures or predicts the time of a subnet.
        latencies: Predicts the times of many, by their widths.
    """

    supernet: Supernet
    scores: Mapping[str, np.ndarray]
    names: Collection[str]
    select: Select
    latency: Callable[[Subnet], float]
    latencies: Callable[[IntArray], np.ndarray] | None = None
    _masks: dict[tuple[str, int], BoolArray] = field(default_factory=dict)
    _costs: dict[tuple[int, ...], dict[str, float]] = field(default_factory=dict)

    @cached_property
    def groups(self) -> dict[str, ChannelGroup]:
        """The groups that are counted."""
        return self.supernet.prunable_groups

    def mask(self, space_id: str, count: int) -> BoolArray:
        """The valid mask of about ``count`` channels of a group."""
        key = space_id, count
        if key not in self._masks:
            self._masks[key] = self.select(self.groups[space_id], self.scores[space_id], count)
        return self._masks[key]

    def alive(self, counts: Counts) -> BoolArray:
        """The labels of the subnet of these counts."""
        alive = np.ones(self.supernet.size, bool)
        for space_id, group in self.groups.items():
            alive[group.labels] = self.mask(space_id, counts[space_id])
        return alive

    def of(self, counts: Counts) -> dict[str, float]:
        """Costs of the subnet of these counts, by name."""
        key = tuple(int(self.mask(space_id, counts[space_id]).sum()) for space_id in self.groups)
        if key not in self._costs:
            alive = self.alive(counts)
            measures: dict[str, Callable[[], float]] = {
                'macs': lambda: self.supernet.cost_model.macs(alive),
                'params': lambda: self.supernet.cost_model.params(alive),
                'latency': lambda: self.latency(self.supernet.subnet_of(alive)),
            }
            self._costs[key] = {name: measures[name]() for name in self.names}
        return self._costs[key]

    def batch(self, counts: IntArray) -> np.ndarray:
        """Costs of many subnets, (subnets, names), by counts of the groups, (subnets, groups)."""
        widths = np.empty_like(counts)
        for column, space_id in enumerate(self.groups):
            numbers, row = np.unique(counts[:, column], return_inverse=True)
            kept = [int(self.mask(space_id, int(number)).sum()) for number in numbers]
            widths[:, column] = np.array(kept)[row]
        measured = [name for name in self.names if name != 'latency']
        try:
            found: dict[str, np.ndarray] = {}
            if measured:
                found.update(self.supernet.cost_table.batch(widths, measured))
        except CostError:  # it depends on which channels stay
            rows = [dict(zip(self.groups, map(int, row), strict=True)) for row in counts]
            return np.array([[self.of(row)[name] for name in self.names] for row in rows])
        if 'latency' in self.names:
            assert self.latencies is not None
            found['latency'] = self.latencies(widths)
        return np.stack([found[name] for name in self.names], axis=1)

    def options(self, space_id: str, least: int, most: int, also: int) -> list[int]:
        """Counts of a group, at most ``_OPTIONS`` and one, that give different widths, in order.

        Args:
            space_id: The group.
            least: The fewest.
            most: No wider ones than this gives.
            also: One that is among them in any case.
        """
        counts = [also, *np.linspace(least, most, _OPTIONS).round().astype(int).tolist()]
        by_width: dict[int, int] = {}
        for count in counts:
            by_width.setdefault(int(self.mask(space_id, count).sum()), count)
        widest = int(self.mask(space_id, most).sum())
        return [n for width, n in sorted(by_width.items()) if width <= widest or n == also]

    def worth(self, space_id: str, count: int) -> float:
        """The sum of the scores that a count of channels keeps."""
        return float(self.scores[space_id][self.mask(space_id, count)].sum())

    def towards(self, counts: dict[str, int], space_id: str, ends: Counts) -> dict[str, int] | None:
        """Counts in which a group is another width, the next one on the way to an end.

        Args:
            counts: Channels of every group.
            space_id: The group.
            ends: The most channels of every group, or the fewest; None is returned if the group
                has no other width on the way.
        """
        now, end = counts[space_id], ends[space_id]
        step, width = 1 if end > now else -1, int(self.mask(space_id, now).sum())
        for number in range(now + step, end + step, step):
            if int(self.mask(space_id, number).sum()) != width:
                return {**counts, space_id: number}
        return None
