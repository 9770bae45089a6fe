"""The accuracies as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmprune.bench.accuracy.compare import Comparison, unpruned
from mmprune.bench.accuracy.networks import TITLES
from mmprune.bench.accuracy.unit import MEASURES, OURS, THEIRS
from mmprune.fileio import atomic_path

SHOWN = ('recalibrated', 'finetuned')
MARKS = {OURS: ('tab:blue', 'o', -0.12), THEIRS: ('tab:orange', 's', 0.12)}


TALK = 'L1'
"""The criterion that the plot for a talk is about."""
LINES = (
    (OURS, 'pruned', 'as it was cut', 'tab:gray', 'o:'),
    (OURS, 'recalibrated', 'norms recalibrated', 'tab:orange', 's--'),
    (OURS, 'compensated', 'compensated', 'tab:blue', 'o-'),
    (OURS, 'taught', 'finetuned with a teacher', 'tab:green', '^-'),
)


def write_talk_plot(
    rows: Sequence[Comparison], contents: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draw accuracy over what is left of the multiply-adds: a panel for each network.

    Args:
        rows: Of one criterion and scope.
        contents: The same rows with those of unpruned networks.
        path: The picture, PNG or SVG by its suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row.network for row in rows))
    figure = Figure(figsize=(4.6 * len(networks), 4.4), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for at, network in zip(axes, networks, strict=True):
        full = unpruned(contents, network)['pruned'].mean
        at.axhline(full, color='black', linewidth=1)
        at.text(
            0.98, full + 1, f'unpruned: {full:.1f} %', ha='right', fontsize=9,
            transform=at.get_yaxis_transform(),
        )  # fmt: skip
        own = sorted((row for row in rows if row.network == network), key=lambda row: row.target)
        for program, measure, label, colour, form in LINES:
            found = [(100 * r.target, r.figures[program][measure]) for r in own
                     if measure in r.figures[program]]  # fmt: skip
            at.errorbar(
                [share for share, _ in found],
                [each.mean for _, each in found],
                [each.spread for _, each in found],
                fmt=form, color=colour, capsize=3, label=label,
            )  # fmt: skip
        at.set_title(TITLES[network])
        at.set_xlabel('% of the multiply-adds that are left')
        at.set_xticks(sorted({100 * row.target for row in own}))
        at.invert_xaxis()
        at.set_ylim(0, 106)
        at.grid(alpha=0.3)
    axes[0].set_ylabel('MNIST, % right')
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside lower center', ncols=2, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=130)


def write_plot(rows: Sequence[Comparison], path: Path) -> None:
    """Draw accuracies with their spreads: a column per network and target, a row per measure.

    Args:
        rows: One per network, target and method.
        path: The picture, PNG or SVG by its suffix.
    """
    # Imported here, because nothing else needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.network, row.target) for row in rows))
    figure = Figure(figsize=(3.2 * len(panels), 6.5), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(SHOWN), len(panels), sharex='col', sharey='row', squeeze=False)
    for column, (network, target) in enumerate(panels):
        own = [row for row in rows if (row.network, row.target) == (network, target)]
        for number, measure in enumerate(SHOWN):
            at = axes[number][column]
            for program, (colour, marker, shift) in MARKS.items():
                found = [(i, row.figures[program][measure]) for i, row in enumerate(own)
                         if program in row.figures]  # fmt: skip
                if not found:
                    continue
                at.errorbar(
                    [i + shift for i, _ in found],
                    [figure.mean for _, figure in found],
                    [figure.spread for _, figure in found],
                    color=colour, fmt=marker, markersize=4, capsize=2, linewidth=1, label=program,
                )  # fmt: skip
            at.set_xticks(range(len(own)), [row.method for row in own], rotation=90)
            at.grid(alpha=0.3)
            if number == 0:
                at.set_title(f'{TITLES[network]}, {target:.0%} of the MACs')
            if column == 0:
                at.set_ylabel(f'{MEASURES[measure]}, % right')
    lowest = min(figures[SHOWN[-1]].mean for row in rows for figures in row.figures.values())
    axes[-1][0].set_ylim(bottom=max(0, lowest - 1))  # some spreads go far below
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
