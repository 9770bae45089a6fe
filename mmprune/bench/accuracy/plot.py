"""The accuracies as a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmprune.bench.accuracy import compare
from mmprune.bench.accuracy.compare import Comparison, unpruned
from mmprune.bench.accuracy.criteria import MEASURES, OURS, THEIRS
from mmprune.bench.accuracy.networks import TITLES
from mmprune.fileio import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ('recalibrated', 'finetuned')
MARKS = {OURS: ('tab:blue', 'o', -0.12), THEIRS: ('tab:orange', 's', 0.12)}
TALK = 'L1'
"""The criterion that the plot for a talk is about."""
LINES = (
    ('pruned', 'as it was cut', 'tab:gray', 'o:'),
    ('recalibrated', 'norms recalibrated', 'tab:orange', 's--'),
    ('compensated', 'compensated', 'tab:blue', 'o-'),
    ('taught', 'finetuned with a teacher', 'tab:green', '^-'),
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
    networks = list(dict.fromkeys(row.network for row in rows))
    figure = _figure(4.6 * len(networks), 4.4)
    axes = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for at, network in zip(axes, networks, strict=True):
        full = unpruned(contents, network)['pruned'].mean
        at.axhline(full, color='black', linewidth=1)
        at.text(
            0.98, full + 1, f'unpruned: {full:.1f} %', ha='right', fontsize=9,
            transform=at.get_yaxis_transform(),
        )  # fmt: skip
        own = sorted((row for row in rows if row.network == network), key=lambda row: row.target)
        for measure, label, colour, form in LINES:
            found = [(100 * r.target, r.figures[OURS][measure]) for r in own
                     if measure in r.figures[OURS]]  # fmt: skip
            _draw(at, found, fmt=form, color=colour, capsize=3, label=label)
        at.set_title(TITLES[network])
        at.set_xlabel('% of the multiply-adds that are left')
        at.set_xticks(sorted({100 * row.target for row in own}))
        at.invert_xaxis()
        at.set_ylim(0, 106)
        at.grid(alpha=0.3)
    axes[0].set_ylabel('MNIST, % right')
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside lower center', ncols=2, fontsize=9)
    _write(figure, path, 130)


def write_plot(rows: Sequence[Comparison], path: Path) -> None:
    """Draw accuracies with their spreads: a column per network and target, a row per measure.

    Args:
        rows: One per network, target and method.
        path: The picture, PNG or SVG by its suffix.
    """
    panels = list(dict.fromkeys((row.network, row.target) for row in rows))
    figure = _figure(3.2 * len(panels), 6.5)
    axes = figure.subplots(len(SHOWN), len(panels), sharex='col', sharey='row', squeeze=False)
    for column, (network, target) in enumerate(panels):
        own = [row for row in rows if (row.network, row.target) == (network, target)]
        for number, measure in enumerate(SHOWN):
            at = axes[number][column]
            for program, (colour, marker, shift) in MARKS.items():
                found = [(i + shift, row.figures[program][measure]) for i, row in enumerate(own)
                         if program in row.figures]  # fmt: skip
                style = dict(color=colour, fmt=marker, markersize=4, capsize=2, linewidth=1)
                _draw(at, found, **style, label=program)
            at.set_xticks(range(len(own)), [row.method for row in own], rotation=90)
            at.grid(alpha=0.3)
            if number == 0:
                at.set_title(f'{TITLES[network]}, {target:.0%} of the MACs')
            if column == 0:
                at.set_ylabel(f'{MEASURES[measure]}, % right')
    lowest = min(figures[SHOWN[-1]].mean for row in rows for figures in row.figures.values())
    axes[-1][0].set_ylim(bottom=max(0, lowest - 1))  # some spreads go far below
    axes[0][0].legend()
    _write(figure, path, 110)


def _figure(width: float, height: float) -> Figure:
    # Imported here, because nothing else needs it.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout='constrained')


def _draw(at: Any, found: Iterable[tuple[float, compare.Figure]], **style: Any) -> None:
    """Means with their spreads, if there are any."""
    points = [(x, each.mean, each.spread) for x, each in found]
    if points:
        at.errorbar(*zip(*points, strict=True), **style)


def _write(figure: Figure, path: Path, dpi: int) -> None:
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)
