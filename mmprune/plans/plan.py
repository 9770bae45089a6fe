"""Plans: what removing channels of a layer touches, shown before anything changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError
from mmprune.layers.surgery import kept_after
from mmprune.plans.connections import Touch, connections, touches_of
from mmprune.plans.plan_record import PlanRecord
from mmprune.plans.removals import PlanError, Removal, labels_of, side_of
from mmprune.supernet.supernet import Subnet, Supernet

CHOSEN = 'chosen'


class Plan:
    """Channels that are to go, and everything that goes with them. Nothing has changed yet.

    ``str(plan)`` is a table of every tensor and dim that loses something, and why. Plans are
    added with ``+``. Channel numbers are those of the full network, so plans may be made and
    carried out in any order.

    Args:
        supernet: The prepared network.
        removals: What is to go.
        gone: Labels that go, (num_labels,) bool.
        record: Where carried out plans are written down.
    """

    def __init__(
        self,
        supernet: Supernet,
        removals: tuple[Removal, ...],
        gone: BoolArray,
        record: PlanRecord,
    ) -> None:
        self._supernet, self._record = supernet, record
        self.removals = removals
        self._gone = gone

    def __add__(self, other: Plan) -> Plan:
        """Both plans as one.

        Raises:
            PlanError: They are for different networks.
        """
        if not isinstance(other, Plan):
            return NotImplemented
        if other._supernet is not self._supernet:
            raise PlanError('plans for two prepared networks cannot be added')
        removals = tuple(dict.fromkeys((*self.removals, *other.removals)))
        return Plan(self._supernet, removals, self._gone | other._gone, self._record)

    @property
    def alive(self) -> BoolArray:
        """The labels that are left if it is carried out now."""
        return self._supernet.alive & ~self._gone

    @property
    def subnet(self) -> Subnet:
        """The subnet that it leads to from the one that is set."""
        return self._supernet.subnet_of(self.alive)

    @property
    def touched(self) -> tuple[Touch, ...]:
        """Every dim of every tensor that loses positions, in the order of the layers."""
        return tuple(touches_of(self._supernet, self.alive, self._reasons))

    @cached_property
    def _reasons(self) -> dict[tuple[str, str], str]:
        reasons: dict[tuple[str, str], str] = {}
        for removal in self.removals:
            labels = labels_of(self._supernet, removal)
            role = 'in' if removal.side == 'in' else 'out'
            reasons.setdefault((removal.layer, role), CHOSEN)
            for key, why in connections(self._supernet, removal.layer, labels).items():
                reasons.setdefault(key, why)
        return reasons

    @property
    def problem(self) -> str:
        """Why it cannot be carried out; empty if it can."""
        alive = self.alive
        for group in self._supernet.groups.values():
            problem = group.problem_with(alive[group.labels])
            if problem:
                names = ', '.join(dict.fromkeys(r.layer for r in self.removals))
                return f"plan for {names}: group '{group.space_id}' {problem}"
        return ''

    @property
    def cost(self) -> tuple[dict[str, int], dict[str, int]]:
        """MACs and parameters now, and after it is carried out."""
        table = self._supernet.cost_table
        columns = ('macs', 'params')
        return table.of(self._supernet.alive, columns), table.of(self.alive, columns)

    def execute(self) -> Subnet:
        """Carry it out: set the subnet without these channels, and record it.

        Returns:
            The subnet that is set now; ``pruner.deploy_subnet(model, pruner.export_subnet())``
            makes the small network of it.

        Raises:
            PlanError: It would empty a layer or break a constraint; nothing is changed then.
        """
        if self.problem:
            hint = '' if 'at least 1' in self.problem else '; plan(..., complete=True) adds those'
            raise PlanError(self.problem + hint)
        alive, before = self.alive, self._supernet.alive
        self._supernet.set_alive(alive)
        self._record.add(self.removals, before, alive)
        return self._supernet.subnet_of(alive)

    def __str__(self) -> str:
        wanted = ' and '.join(
            f'{_shown(r.channels)} of the {r.raw} {r.side}puts of {r.layer}' for r in self.removals
        )
        rows = [
            (
                touch.tensor,
                ','.join(map(str, touch.dims)),
                f'{touch.before} -> {touch.before - len(touch.removed)}',
                _shown(touch.removed),
                touch.why,
            )
            for touch in self.touched
        ]
        lines = [f'remove {wanted}']
        if rows:
            rows = [('tensor', 'dim', 'size', 'removed', 'why'), *rows]
            widths = [max(len(row[i]) for row in rows) for i in range(4)]
            for row in rows:
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
                lines.append('  '.join([*cells, row[4]]).rstrip())
        else:
            lines.append('these channels are gone already')
        now, then = self.cost
        lines.append(
            f'MACs {now["macs"]:,} -> {then["macs"]:,}, parameters {now["params"]:,} -> '
            f'{then["params"]:,}'
        )
        if self.problem:
            lines.append(f'cannot be carried out: {self.problem}')
        return '\n'.join(lines)


def _shown(numbers: tuple[int, ...]) -> str:
    first = ', '.join(map(str, numbers[:6]))
    return f'[{first}, ... {len(numbers)} in all]' if len(numbers) > 6 else f'[{first}]'


def make_plan(
    supernet: Supernet,
    record: PlanRecord,
    layer: str,
    channels: Iterable[int],
    side: str = 'out',
    complete: bool = False,
) -> Plan:
    """Plan to remove channels of a layer.

    Args:
        supernet: The prepared network.
        record: Where the plan is written down when it is carried out.
        layer: Its name.
        channels: Their numbers in the full layer.
        side: ``'out'``: outputs; ``'in'``: inputs.
        complete: Take the fewest further channels that constraints ask for (a grouped
            convolution loses equally many in every group).

    Raises:
        PlanError: There is no such layer or channel, or it is pinned.
    """
    if side not in ('in', 'out'):
        raise PlanError(f"side must be 'in' or 'out', not {side!r}")
    labels = side_of(supernet, layer, side)
    try:
        keep = kept_after(f"layer '{layer}', {side}puts", len(labels), channels, at_least=0)
    except InputError as error:
        raise PlanError(str(error)) from error
    numbers = np.flatnonzero(~keep)
    if not len(numbers):
        raise PlanError(f"layer '{layer}': a plan needs at least one channel to remove")
    removal = Removal(layer, tuple(int(n) for n in numbers), side, len(labels))
    gone = np.zeros(supernet.size, bool)
    gone[labels_of(supernet, removal)] = True
    if complete:
        gone = _completed(supernet, gone)
        places = gone[np.maximum(labels, 0)] & (labels >= 0)
        removal = replace(removal, channels=tuple(np.flatnonzero(places).tolist()))
    return Plan(supernet, (removal,), gone, record)


def _completed(supernet: Supernet, gone: BoolArray) -> BoolArray:
    """The labels that go when constraints are obeyed, the fewest that do."""
    gone = gone.copy()
    for group in supernet.prunable_groups.values():
        own = gone[group.labels] | ~supernet.alive[group.labels]
        if own.any() and (group.constraints or group.arrangement is not None):
            gone[group.labels] |= ~_obedient(group, ~own)
    return gone


def _obedient(group: ChannelGroup, keep: BoolArray) -> BoolArray:
    """The largest valid mask within ``keep``; of equal channels the last ones go."""
    scores = np.where(keep, 2.0, 0.0) - np.arange(len(keep)) / len(keep)
    for count in range(int(keep.sum()), 0, -1):
        mask = group.select(scores, count)
        if not (mask & ~keep).any():
            return mask
    rule = group.constraints[0] if group.constraints else group.arrangement
    raise PlanError(
        f"group '{group.space_id}': no valid choice is left of {int(keep.sum())} of its "
        f'{len(keep)} channels ({rule.reason if rule is not None else ""})'
    )
