"""Run the zoo: a progress bar while it runs, one table and a file at the end."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmprune.fileio import atomic_path
from mmprune.version import __version__
from mmprune.zoo.check import ALLOWED_REASONS, DOUBLE_BAR, SINGLE_BAR, ZooResult, check_model
from mmprune.zoo.models import ZOO, resolve

WIDTH = 160
"""Columns of the table where the output is not a terminal."""
MOST_REASONS = 3
"""How many reasons for pinning a row shows; the file has all of them."""


def run_zoo(
    models: Sequence[str] = (),
    ratio: float = 0.5,
    seed: int = 0,
    size: int | None = None,
    json_path: str | os.PathLike[str] | None = None,
) -> list[ZooResult]:
    """Prune every network, print the table of what came out, and write it to a file.

    Args:
        models: Configs under mmcls's ``_base_/models``; those of ``ZOO`` if there are none.
        ratio: Share of its channels that every group keeps.
        seed: Of all that is drawn.
        size: Height and width of the images; the smallest that each network accepts if None.
        json_path: Where to write the results too.

    Raises:
        InputError: A name is unknown; nothing has been run then.
    """
    names = [resolve(name) for name in models] or list(ZOO)
    # mmcls tells about every preprocessor that it builds.
    MMLogger.get_current_instance().setLevel('WARNING')
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    results = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task('', total=len(names))
        for name in names:
            progress.update(task, description=name)
            with warnings.catch_warnings():
                # mmcv comments on the configs of mmcls and on its own defaults.
                warnings.filterwarnings('ignore', category=UserWarning, module=r'mmcv\.')
                results.append(check_model(name, ratio, seed, size))
            progress.advance(task)
    console.print(zoo_table(results, ratio))
    console.print(summary(results), soft_wrap=True)
    if json_path is not None:
        with atomic_path(json_path) as unfinished:
            unfinished.write_text(json.dumps(report(results, ratio, seed), indent=1), 'utf-8')
    return results


def zoo_table(results: Sequence[ZooResult], ratio: float) -> Table:
    """A row per network."""
    table = Table(
        title=f'Every group at {ratio:g} of its channels, any of them',
        caption='errors: largest difference to the deployed network over the largest output; '
        f'allowed are {DOUBLE_BAR:.0e} and, in float32, {SINGLE_BAR:.0e}',
    )
    table.add_column('model', overflow='fold')
    for title in ('groups', 'parameters', 'kept', 'MACs kept', 'sliced', 'masked',
                  'independent', 'float32', 'prepared, s'):  # fmt: skip
        table.add_column(title, justify='right')
    table.add_column('pinned', overflow='fold')
    for result in results:
        errors = (result.slice_error, result.mask_error, result.independent_error)
        table.add_row(
            f'[red]{result.model}' if result.problems else result.model,
            str(result.groups),
            f'{result.params[0]:,}',
            f'{result.params[1] / result.params[0]:.3f}',
            f'{result.macs[1] / result.macs[0]:.3f}',
            *(f'{error:.1e}' for error in (*errors, result.single_error)),
            f'{result.prepare_seconds:.2f}',
            pinned_text(result),
        )
    return table


def pinned_text(result: ZooResult) -> str:
    """The pinned groups by reason, the most common first; the allowed reasons in one word."""
    reasons = Counter(ALLOWED_REASONS.get(why, why) for why in result.pinned.values())
    shown = [f'{count} {why}' for why, count in reasons.most_common(MOST_REASONS)]
    others = len(result.pinned) - sum(count for _, count in reasons.most_common(MOST_REASONS))
    return ', '.join([*shown, *([f'{others} for other reasons'] if others else [])])


def summary(results: Sequence[ZooResult]) -> str:
    """How many networks pass, and what is wrong with the others."""
    failed = [result for result in results if result.problems]
    lines = [f'{result.model}: {problem}' for result in failed for problem in result.problems]
    seconds = sum(result.seconds for result in results)
    worst = max((max(r.slice_error, r.mask_error, r.independent_error) for r in results), default=0)
    lines.append(
        f'{len(results) - len(failed)} of {len(results)} networks pass; largest error '
        f'{worst:.1e} in float64, {max((r.single_error for r in results), default=0):.1e} in '
        f'float32; {seconds:.0f} s'
    )
    return '\n'.join(lines)


def report(results: Sequence[ZooResult], ratio: float, seed: int) -> dict[str, Any]:
    """The results and what they were made with, as plain data."""
    return {
        'mmprune': __version__,
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'ratio': ratio,
        'seed': seed,
        'results': [asdict(result) for result in results],
    }
