"""The plans that were carried out: kept, written to a file, and carried out again elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmprune.channels.constraints import BoolArray
from mmprune.fileio import atomic_path
from mmprune.plans.removals import PlanError, Removal, labels_of
from mmprune.supernet.supernet import Subnet, Supernet

FORMAT = {'name': 'mmprune plans', 'version': 1}


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
        groups = self.supernet.prunable_groups.items()
        content = {
            'format': FORMAT,
            'base': self.base,
            'plans': [{**asdict(r), 'channels': list(r.channels)} for r in self.removals],
            'kept': {space_id: int(self._alive[group.labels].sum()) for space_id, group in groups},
        }
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1), encoding='utf-8')

    def replay(self, path: str | Path) -> Subnet:
        """Carry out the plans of a file, on the full network.

        Returns:
            The subnet, which is set.

        Raises:
            PlanError: The file is broken, or the plans do not fit this network, or lead to another
                number of channels in some group; nothing is changed then.
        """
        path = Path(path)
        content = _read(path)
        supernet = self.supernet
        try:
            alive = _without(supernet, content['base'])
            removals = tuple(_removal(entry) for entry in content['plans'])
            gone = np.zeros(supernet.size, bool)
            for removal in removals:
                gone[labels_of(supernet, removal)] = True
            base, alive = alive, alive & ~gone
            problem = _difference(supernet, alive, content['kept'])
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


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise PlanError(f'{path}: cannot be read as plans: {error}') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        found = content.get('format') if isinstance(content, dict) else type(content).__name__
        raise PlanError(f'{path}: is no file of plans: its format is {found!r}, not {FORMAT}')
    kinds = {'base': dict, 'plans': list, 'kept': dict}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise PlanError(f"{path}: '{key}' is missing or no {kind.__name__}")
    return content


def _removal(entry: Any) -> Removal:
    names = {'layer': str, 'channels': list, 'side': str, 'raw': int}
    if not isinstance(entry, Mapping) or set(entry) != set(names):
        raise PlanError(f'a plan has the keys {list(names)}, found {entry!r}')
    for name, kind in names.items():
        if not isinstance(entry[name], kind):
            raise PlanError(f"layer '{entry['layer']}': {name} is {entry[name]!r}")
    wrong = [c for c in entry['channels'] if type(c) is not int or not 0 <= c < entry['raw']]
    if wrong or entry['side'] not in ('in', 'out'):
        what = f'channel {wrong[0]!r}' if wrong else f'side {entry["side"]!r}'
        raise PlanError(f"layer '{entry['layer']}' has no {what}; it has {entry['raw']} channels")
    return Removal(entry['layer'], tuple(entry['channels']), entry['side'], entry['raw'])


def _without(supernet: Supernet, base: Mapping[str, Any]) -> BoolArray:
    """All labels but the channels that the record's beginning lacks."""
    alive = np.ones(supernet.size, bool)
    for space_id, channels in base.items():
        group = supernet.prunable_groups.get(space_id)
        size = group.num_channels if group is not None else 0
        known = isinstance(channels, list) and all(
            type(c) is int and 0 <= c < size for c in channels
        )
        if group is None or not known:
            raise PlanError(f"group '{space_id}' has {size} prunable channels, not {channels!r}")
        alive[group.labels[channels]] = False
    return alive


def _difference(supernet: Supernet, alive: BoolArray, wanted: Mapping[str, Any]) -> str:
    """In which group another number of channels is left than when the record was made."""
    found = {
        space_id: int(alive[group.labels].sum())
        for space_id, group in supernet.prunable_groups.items()
    }
    for space_id in dict.fromkeys((*found, *wanted)):
        here, there = found.get(space_id, 'none'), wanted.get(space_id, 'none')
        if here != there:
            return (
                f"group '{space_id}' keeps {here} channels here, but {there} where the plans were "
                'made: another model, or other options of the pruner'
            )
    return ''
