"""The plans that were carried out: kept, written to a file, and carried out again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.datafiles import read_data, write_data
from mmprune.plans.removals import PlanError, Removal, labels_of
from mmprune.schema import Whole, checked
from mmprune.supernet.supernet import Subnet, Supernet


@dataclass(frozen=True)
class _Format:
    name: Literal['mmprune plans'] = 'mmprune plans'
    version: Literal[1] = 1


@dataclass(frozen=True)
class _File:
    """What a file of plans holds."""

    format: _Format
    base: dict[str, list[Whole]]
    plans: list[Removal]
    kept: dict[str, Whole]


class PlanRecord:
    """What plans have removed from one prepared network, in order.

    Subnets that were set by other means in between are recorded as what they removed, per group,
    so that the record always leads to the subnet that the last plan set.

    Args:
        supernet: The prepared network.
    """

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self.removals: list[Removal] = []
        self.base: dict[str, list[int]] = {}
        self._alive = np.ones(supernet.size, bool)

    def add(self, removals: tuple[Removal, ...], before: BoolArray, after: BoolArray) -> None:
        """Write down a plan that turned the labels ``before`` into ``after``."""
        if (before != self._alive).any():
            self.removals.clear()
            self.base = {
                space_id: np.flatnonzero(~before[group.labels]).tolist()
                for space_id, group in self.supernet.prunable_groups.items()
                if not before[group.labels].all()
            }
        self.removals += removals
        self._alive = after.copy()

    def save(self, path: str | Path) -> None:
        """Write the record as JSON; all or nothing."""
        kept = _kept(self.supernet, self._alive)
        write_data(asdict(_File(_Format(), self.base, self.removals, kept)), path)

    def replay(self, path: str | Path) -> Subnet:
        """Carry out the plans of a file, on the full network.

        Returns:
            The subnet, which is set.

        Raises:
            PlanError: The file is broken, or the plans do not fit this network, or lead to another
                number of channels in some group; nothing is changed then.
        """
        content = checked(_File, read_data(path, 'plans', PlanError), str(path), PlanError)
        supernet, removals = self.supernet, tuple(content.plans)
        try:
            alive = _without(supernet, content.base)
            gone = np.zeros(supernet.size, bool)
            for removal in removals:
                gone[labels_of(supernet, removal)] = True
            base, alive = alive, alive & ~gone
            problem = _difference(supernet, alive, content.kept)
            if problem:
                raise PlanError(problem)
            supernet.check_alive(alive, 'its plans')
        except ValueError as error:
            raise PlanError(f'{path}: {error}') from error
        supernet.set_alive(alive)
        self.removals, self.base = [], {}
        self._alive = np.ones(supernet.size, bool)
        self.add(removals, base, alive)
        return supernet.subnet_of(alive)


def _without(supernet: Supernet, base: Mapping[str, list[int]]) -> BoolArray:
    """All labels but the channels that the record's beginning lacks."""
    alive = np.ones(supernet.size, bool)
    for space_id, channels in base.items():
        group = supernet.prunable_groups.get(space_id)
        size = group.num_channels if group is not None else 0
        if group is None or max(channels, default=0) >= size:
            raise PlanError(f"group '{space_id}' has {size} prunable channels, not {channels!r}")
        alive[group.labels[channels]] = False
    return alive


def _kept(supernet: Supernet, alive: BoolArray) -> dict[str, int]:
    """How many channels are left of every group."""
    groups = supernet.prunable_groups.items()
    return {space_id: int(alive[group.labels].sum()) for space_id, group in groups}


def _difference(supernet: Supernet, alive: BoolArray, wanted: Mapping[str, int]) -> str:
    """In which group another number of channels is left than when the record was made."""
    found = _kept(supernet, alive)
    for space_id in dict.fromkeys((*found, *wanted)):
        here, there = found.get(space_id, 'none'), wanted.get(space_id, 'none')
        if here != there:
            return (
                f"group '{space_id}' keeps {here} channels here, but {there} where the plans were "
                'made: another model, or other options of the pruner'
            )
    return ''
