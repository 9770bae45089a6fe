"""Sensitivities as a table, a picture, and ratios that a pruner takes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from rich.table import Table

from mmprune.channels.labels import IntArray
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.pruners import ImportancePruner
from mmprune.pruners.allocation import allocate
from mmprune.pruners.budget import Limits
from mmprune.pruners.subnet_costs import SubnetCosts
from mmprune.report.tables import numbers
from mmprune.schema import Count, Metric, Whole


@dataclass(frozen=True)
class Row:
    """What was measured of one group at one width, all others being whole.

    Attributes:
        group: Its ``space_id``.
        channels: Channels that it kept.
        full: Channels that it has.
        metric: What was measured.
        loss: How much worse than the full network that is; below 0 if it is better.
        macs: Of the network then.
        params: Of the network then.
    """

    group: str
    channels: Count
    full: Count
    metric: Metric
    loss: Metric
    macs: Whole
    params: Whole

    def __post_init__(self) -> None:
        if self.channels > self.full:
            raise ValueError(f'keeps {self.channels} channels, but there are only {self.full}')

    @property
    def share(self) -> float:
        """The share of its channels that the group kept."""
        return self.channels / self.full


def ratios_of_drop(pruner: ImportancePruner, rows: Sequence[Row], drop: float) -> dict[str, float]:
    """By group, the smallest share that was measured to lose no more than ``drop``.

    Wider ones must not lose more either.
    """
    ratios = dict.fromkeys(pruner.channel_spaces, 1.0)
    for row in sorted(rows, key=lambda row: -row.share):
        wider = [r for r in rows if r.group == row.group and r.share > row.share]
        if row.group in ratios and max([row.loss, *(r.loss for r in wider)]) <= drop:
            ratios[row.group] = row.share
    return ratios


def ratios_of_budget(
    pruner: ImportancePruner, rows: Sequence[Row], budget: Mapping[str, float]
) -> dict[str, float]:
    """The shares within a budget whose measured losses add up to the least.

    A width is taken to lose no less than a wider one, and between measured widths linearly; no
    group gets narrower than measured.

    Raises:
        InputError: The narrowest widths cost more than the budget.
    """
    groups = pruner.supernet.prunable_groups
    scores = {space_id: pruner._scores(group) for space_id, group in groups.items()}
    costs = SubnetCosts(pruner.supernet, scores, budget, pruner.select, lambda _: 0.0)
    full = {space_id: group.num_channels for space_id, group in groups.items()}
    limits = Limits.of(budget, costs.of(full))
    options, values = [], []
    for space_id, size in full.items():
        measured = sorted(((r.channels, r.loss) for r in rows if r.group == space_id), reverse=True)
        widths, found = zip((size, 0.0), *measured, strict=True)
        widths, losses = widths[::-1], np.maximum.accumulate(found)[::-1]
        own = costs.options(space_id, widths[0], size, size)
        options.append(np.array(own))
        kept = [int(costs.mask(space_id, count).sum()) for count in own]
        values.append(-np.interp(kept, widths, losses))

    def use(choices: IntArray) -> np.ndarray:
        counts = [own[choice] for own, choice in zip(options, choices.T, strict=True)]
        return costs.batch(np.stack(counts, axis=1)) / np.array(list(limits.limits.values()))

    narrowest = np.zeros(len(full), int)
    if (use(narrowest[None]) > 1).any():
        least = costs.of(dict(zip(full, (int(own[0]) for own in options), strict=True)))
        raise InputError(
            'the budget cannot be met by widths that were measured: the narrowest cost '
            f'{limits.describe(least)}. Measure narrower ones, --shares 0.5 0.25 0.1'
        )
    chosen = allocate(values, use, narrowest)
    return {
        space_id: int(own[number]) / full[space_id]
        for space_id, own, number in zip(full, options, chosen, strict=True)
    }


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows for a spreadsheet."""
    with (
        atomic_path(path) as unfinished,
        unfinished.open('w', newline='', encoding='utf-8') as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def rows_table(rows: Sequence[Row], ratios: Mapping[str, float], title: str) -> Table:
    """A row per group: what it loses at each width, and the share that it gets."""
    table = Table('group', *numbers('channels', 'loses, at channels kept', 'ratio'), title=title)
    for space_id, ratio in ratios.items():
        own = sorted((r for r in rows if r.group == space_id), key=lambda row: -row.channels)
        losses = ', '.join(f'{row.loss:.2f} at {row.channels}' for row in own)
        table.add_row(space_id, str(own[0].full) if own else '', losses, f'{ratio:.3f}')
    return table


def draw_rows(rows: Sequence[Row], groups: Sequence[str], title: str, path: Path) -> None:
    """Draw the losses: a row per group in order of execution, a line through its widths."""
    from matplotlib.figure import Figure

    measured = [name for name in groups if any(row.group == name for row in rows)]
    worst = max([row.loss for row in rows if np.isfinite(row.loss)], default=0) or 1
    figure = Figure(figsize=(7.5, 1.2 + 0.28 * len(measured)), layout='constrained')
    axes = figure.add_subplot()
    x = [row.share for row in rows]
    y = [measured.index(row.group) for row in rows]
    points = axes.scatter(
        x, y, c=[row.loss for row in rows], s=130, marker='s', cmap='viridis_r', vmin=0, vmax=worst
    )
    for row, across, down in zip(rows, x, y, strict=True):
        axes.annotate(
            f'{row.loss:.1f}', (across, down), (9, 0), textcoords='offset points', va='center',
            fontsize=7,
        )  # fmt: skip
    axes.set_yticks(range(len(measured)), measured, fontsize=7)
    axes.set_ylim(len(measured) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel('share of its channels that the group keeps, all others being whole')
    axes.set_title(title, fontsize=9)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    figure.colorbar(points, ax=axes, label='loses')
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
