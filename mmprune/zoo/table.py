"""Run the zoo: a progress bar while it runs, one table and files at the end."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmprune.datafiles import write_data
from mmprune.errors import InputError
from mmprune.fileio import check_outputs, write_text
from mmprune.report.tables import long, numbers
from mmprune.version import __version__
from mmprune.zoo.check import DOUBLE_BAR, ENDS, SINGLE_BAR, Plan, ZooResult, check_model
from mmprune.zoo.models import resolve
from mmprune.zoo.networks import ZOO, law
from mmprune.zoo.peer import version

WIDTH = 190
"""Columns of the table where the output is not a terminal."""
MOST_REASONS = 4
"""How many reasons for pinning a row shows; the file has all of them."""
COLUMNS = ('groups', 'parameters', 'kept', 'MACs kept', 'sliced', 'masked', 'independent',
           'float32', 'prepared, s', 'seconds')  # fmt: skip
"""Columns of numbers, between the name of a network and what is pinned in it."""

Path = str | os.PathLike[str]


def run_zoo(
    models: Sequence[str] = (),
    plan: Plan | None = None,
    json_path: Path | None = None,
    markdown_path: Path | None = None,
) -> list[ZooResult]:
    """Prune every network, print the table of what came out, and write it to files.

    Args:
        models: Configs, see ``resolve``; those of ``ZOO`` if there are none.
        plan: What is done to each; half of every group is removed if None.
        json_path: Where to write the results too.
        markdown_path: Where to write the table in Markdown.

    Raises:
        InputError: A name is unknown; nothing has been run then. Or a network cannot be built,
            run or pruned; the others are in the table.
    """
    names, plan = [resolve(name) for name in models] or list(ZOO), plan or Plan()
    check_outputs([json_path, markdown_path])
    # mmcls tells about every preprocessor that it builds.
    MMLogger.get_current_instance().setLevel('WARNING')
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    results, failed = [], {}
    for name in track(names, 'networks', console=Console(stderr=True), transient=True):
        with warnings.catch_warnings():
            # mmcv comments on the configs of mmcls and on its own defaults, torch on swin's
            # meshgrid.
            warnings.filterwarnings('ignore', category=UserWarning, module=r'(mmcv|torch)\.')
            try:
                results.append(check_model(name, plan))
            except Exception as error:  # whatever a network raises; the next one is run
                failed[name] = f'{type(error).__name__}: {error}'
    console.print(zoo_table(results, plan))
    console.print(summary(results), soft_wrap=True)
    if json_path is not None:
        write_data(report(results, plan), json_path)
    if markdown_path is not None:
        write_text(markdown(results), markdown_path)
    if failed:
        told = '\n'.join(f'{name}: {why}' for name, why in failed.items())
        raise InputError(f'{len(failed)} of {len(names)} networks cannot be pruned:\n{told}')
    return results


def _numbers(result: ZooResult) -> list[str]:
    """The cells of ``COLUMNS``."""
    errors = (result.slice_error, result.mask_error, result.independent_error)
    tipped = '*' if result.choices_tipped else ''
    return [
        str(result.groups),
        f'{result.params[0]:,}',
        f'{result.kept:.3f}',
        f'{result.macs[1] / result.macs[0]:.3f}',
        *('0' if error == 0 else f'{error:.1e}' for error in errors),
        f'{result.single_error:.1e}{tipped}',
        f'{result.prepare_seconds:.2f}',
        f'{result.seconds:.0f}',
    ]


def zoo_table(results: Sequence[ZooResult], plan: Plan) -> Table:
    """A row per network."""
    with_peer = any(result.peer is not None for result in results)
    table = Table(
        *(long('model'), *numbers(*COLUMNS), long('pinned')),
        *(long(f'Torch-Pruning {name}') for name in [version()] * with_peer),
        title=f'Every group at {plan.ratio:g} of its channels, any of them; {plan.attention} of '
        'attention',
        caption='errors: largest difference to the deployed network over the largest output; '
        f'allowed are {DOUBLE_BAR:.0e} and, in float32, {SINGLE_BAR:.0e}; *: rounding tips '
        'choices of this network, float64 shows no difference',
    )
    for result in results:
        name = f'[red]{result.model}' if result.problems else result.model
        peer = [str(result.peer)] if with_peer else []
        table.add_row(name, *_numbers(result), pinned_text(result), *peer)
    return table


def markdown(results: Sequence[ZooResult]) -> str:
    """The same table in Markdown, with the errors that Torch-Pruning ends with, if it was asked."""
    with_peer = any(result.peer is not None for result in results)
    last = ['pinned', *(['Torch-Pruning'] if with_peer else [])]
    lines = [['model', *COLUMNS, *last], ['---', *['---:'] * len(COLUMNS), *['---'] * len(last)]]
    for result in results:
        lines.append([result.model, *_numbers(result), pinned_text(result)])
        if with_peer:
            peer = result.peer
            told = '' if peer is None else f'{peer}, {peer.detail}' if peer.detail else str(peer)
            lines[-1].append(told)
    cells = ([cell.replace('|', '\\|') for cell in line] for line in lines)
    return ''.join(f'| {" | ".join(line)} |\n' for line in cells)


def pinned_text(result: ZooResult) -> str:
    """The pinned groups by reason, the most common first; inputs, outputs and laws in a word."""
    words = [ENDS.get(why) or law(space_id) or why for space_id, why in result.pinned.items()]
    reasons = Counter(words)
    shown = [f'{count} {why}' for why, count in reasons.most_common(MOST_REASONS)]
    others = len(result.pinned) - sum(count for _, count in reasons.most_common(MOST_REASONS))
    return ', '.join([*shown, *([f'{others} for other reasons'] if others else [])])


def summary(results: Sequence[ZooResult]) -> str:
    """How many networks pass, what is wrong with the others, and how the peer does."""
    failed = [result for result in results if result.problems]
    lines = [f'{result.model}: {problem}' for result in failed for problem in result.problems]
    seconds = sum(result.seconds for result in results)
    worst = max((max(r.slice_error, r.mask_error, r.independent_error) for r in results), default=0)
    single = max((r.single_error for r in results if not r.choices_tipped), default=0)
    lines.append(
        f'{len(results) - len(failed)} of {len(results)} networks pass; largest error '
        f'{worst:.1e} in float64, {single:.1e} in float32; {seconds:.0f} s'
    )
    outcomes = Counter(result.peer.outcome for result in results if result.peer is not None)
    if outcomes:
        told = ', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())
        lines.append(f'Torch-Pruning {version()}, without hints: {told}')
    return '\n'.join(lines)


def report(results: Sequence[ZooResult], plan: Plan) -> dict[str, Any]:
    """The results and what they were made with, as plain data."""
    return {
        'mmprune': __version__,
        'torch': torch.__version__,
        'torch-pruning': version(),
        'threads': torch.get_num_threads(),
        **asdict(plan),
        'results': [asdict(result) for result in results],
    }
