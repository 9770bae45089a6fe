"""Tables and the plot of tools/latency.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.table import Table

from mmprune.commands.subnet_times import Comparison
from mmprune.fileio import atomic_path
from mmprune.latency import Device, Times
from mmprune.latency.rounding import FREE, RoundingReport
from mmprune.report.tables import long, numbers


def comparison_table(found: Comparison) -> Table:
    """A row per random subnet, fastest first."""
    errors = np.abs(found.errors)
    table = Table(
        *numbers('MACs', 'predicted, ms', 'measured, ms', 'error'),
        title=f'{len(found.measured)} random subnets, predicted and measured',
        caption=f'rank correlation {found.rank_correlation:.3f} (of MACs and measured times: '
        f'{found.rank_correlation_of_macs:.3f}); relative error {errors.mean():.1%} on '
        f'average, {errors.max():.1%} at most',
    )
    for row in np.argsort(found.measured):
        table.add_row(
            f'{found.macs[row]:,}',
            f'{1e3 * found.predicted[row]:.3f}',
            f'{1e3 * found.measured[row]:.3f}',
            f'{found.errors[row]:+.1%}',
        )
    return table


def backends_table(times: Mapping[str, Mapping[str, Times]]) -> Table:
    """A row per network, a column per backend."""
    title = 'Deployed networks, median ms of a forward pass'
    table = Table(long('network'), *numbers(*times), title=title)
    for name in next(iter(times.values()), {}):
        table.add_row(name, *(f'{1e3 * by_name[name].median:.3f}' for by_name in times.values()))
    return table


def rounding_table(report: RoundingReport) -> Table:
    """A row per layer: what rounding its width up to multiples costs."""
    table = Table(
        *(long('layer'), *numbers('varies', 'widths', 'ms')),
        *numbers(*(f'to {multiple}' for multiple in report.multiples)),
        title='Time at a width rounded up over the time at that width, mean over neighbouring '
        'widths',
        caption=f'round_to={report.suggestion} costs nothing (at most {FREE - 1:.0%} more time '
        'over these layers)',
    )
    for layer in report.layers:
        table.add_row(
            str(layer.shape),
            ('inputs', 'outputs')[layer.axis],
            f'{layer.widths[0]} to {layer.widths[-1]}',
            f'{1e3 * min(layer.seconds):.3f} to {1e3 * max(layer.seconds):.3f}',
            *(f'{layer.rounded_up(multiple).mean():.3f}' for multiple in report.multiples),
        )
    means = [f'{report.cost(multiple):.3f}' for multiple in report.multiples]
    table.add_row('mean', '', '', '', *means, style='bold')
    return table


def draw_comparison(found: Comparison, device: Device, path: Path) -> None:
    """Draw predicted over measured times as a picture."""
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(5.5, 5), layout='constrained')
    axes = figure.add_subplot()
    measured, predicted = 1e3 * np.array(found.measured), 1e3 * np.array(found.predicted)
    ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    axes.plot(ends, ends, color='tab:gray', linewidth=1, label='equal')
    axes.plot(measured, predicted, 'o', color='tab:blue', label='a random subnet')
    axes.set_xlabel('measured, ms')
    axes.set_ylabel('predicted, ms')
    axes.set_title(f'rank correlation {found.rank_correlation:.3f}\n{device}', fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
