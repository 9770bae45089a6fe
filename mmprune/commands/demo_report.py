"""The demo's numbers, as a table and as a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from mmprune.fileio import atomic_path
from mmprune.report.tables import numbers


@dataclass(frozen=True)
class Row:
    """One network of the demo; accuracies in percent, on the test images.

    Attributes:
        name: What it is called.
        macs: Multiply-adds for one image.
        params: Number of parameters.
        num_images: Number of test images.
        supernet: Accuracy inside the supernet.
        deployed: Accuracy as a plain network, loaded from its files.
        num_different: Images that the two call by different names.
        finetuned: Accuracy after finetuning; None where there was none.
        latency_ms: Median time of a batch on the CPU.
    """

    name: str
    macs: int
    params: int
    num_images: int
    supernet: float
    deployed: float
    num_different: int
    finetuned: float | None
    latency_ms: float


@dataclass(frozen=True)
class DemoReport:
    """Everything that the demo has measured.

    Attributes:
        rows: The full network, then the subnets.
        uniform: (MACs, accuracy) of the supernet with all layers equally narrow.
        latency_batch: Images per batch in the measurement of the latency.
    """

    rows: list[Row]
    uniform: list[tuple[int, float]]
    latency_batch: int


def report_table(report: DemoReport) -> Table:
    """Return the demo's table: a row per network."""
    full = report.rows[0]
    table = Table(
        Column(no_wrap=True),
        *numbers('MACs', '%', 'parameters', '%', 'in supernet', 'deployed', 'differ', 'finetuned'),
        *numbers(f'ms / {report.latency_batch}'),
        title=f'Accuracy in percent on {full.num_images} test images',
        caption=f'One image is {100 / full.num_images:.2f} %. differ: images that supernet and '
        f'deployed network call by different names. ms / {report.latency_batch}: median time '
        f'of a batch of {report.latency_batch} on one CPU thread.',
    )
    for row in report.rows:
        table.add_row(
            row.name,
            f'{row.macs:,}',
            f'{row.macs / full.macs:.0%}',
            f'{row.params:,}',
            f'{row.params / full.params:.0%}',
            f'{row.supernet:.2f}',
            f'{row.deployed:.2f}',
            str(row.num_different),
            '-' if row.finetuned is None else f'{row.finetuned:.2f}',
            f'{row.latency_ms:.2f}',
        )
    return table


def plot_report(report: DemoReport, path: Path) -> None:
    """Draw accuracy over MACs as a PNG: uniform widths, found subnets, finetuned ones."""
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.add_subplot()
    _points(axes, report.uniform, 'o--', 'all layers equally narrow', color='tab:gray')
    subnets = report.rows[1:]
    found = [(row.macs, row.deployed) for row in subnets]
    finetuned = [(row.macs, row.finetuned) for row in subnets if row.finetuned is not None]
    _points(axes, found, 's', 'found by the search, deployed', color='tab:blue')
    _points(axes, finetuned, '^', 'the same, finetuned', color='tab:green')
    full = [(report.rows[0].macs, report.rows[0].deployed)]
    _points(axes, full, '*', 'full network', color='tab:red', markersize=13)
    axes.set_xlabel('million multiply-adds per image')
    axes.set_ylabel('test accuracy, %')
    axes.set_title('Subnets of one supernet, handwritten digits')
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _points(
    axes: Any, points: Sequence[tuple[int, float]], style: str, label: str, **line: Any
) -> None:
    axes.plot(
        [macs / 1e6 for macs, _ in points], [y for _, y in points], style, label=label, **line
    )
