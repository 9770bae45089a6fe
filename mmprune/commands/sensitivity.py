"""What tools/sensitivity.py does: what each group costs in accuracy at several widths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmprune.commands.metrics import measure_of
from mmprune.commands.prune import pruner_of_importance
from mmprune.commands.prune_options import PruneOptions, prunable_config
from mmprune.commands.sensitivity_report import (
    Row,
    draw_rows,
    ratios_of_budget,
    ratios_of_drop,
    rows_table,
    write_csv,
)
from mmprune.compensation.progress import progress_bar
from mmprune.config import files_of, load_config
from mmprune.datafiles import read_data, write_data
from mmprune.errors import InputError, in_words
from mmprune.fileio import check_outputs
from mmprune.latency import data_of
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_algorithm, calibration_batches
from mmprune.models.training_data import TrainingData
from mmprune.pruners import ImportancePruner, Subnet
from mmprune.pruners.budget import check_budget
from mmprune.report.tables import show
from mmprune.schema import Metric, checked
from mmprune.search.evaluate import judged, recalibrate
from mmprune.search.history import weights_key
from mmprune.training.compensation import compensation_of

FORMAT: Final = 'mmprune sensitivity 1'
AFTER = ('compensation', 'recalibration', 'cut')
"""What is done to the network of a width before its metric is measured."""


@dataclass(frozen=True)
class SensitivityOptions:
    """What to measure, and what to make of it.

    Attributes:
        shares: Shares of a group's channels that are kept, one group at a time.
        after: One of ``AFTER``.
        metric: Name of the evaluator's metric; its only one if None.
        lower_is_better: Whether the metric is an error.
        drop: How much of the metric a group may cost in the file of ratios.
        budget: Limits by name, ``macs`` and ``params``, in the place of ``drop``: the ratios within
            it that cost least, all groups' costs added up.
        importance: Which channels stay, as for ``tools/prune.py``.
        keep: Layers whose outputs stay.
        input_shape: Of the input, for a config of a plain network.
        out_dir: Where the files go; ``sensitivity`` beside the checkpoint if None.
        restart: Measure everything anew.
    """

    shares: Sequence[float] = (0.75, 0.5, 0.25)
    after: str = 'compensation'
    metric: str | None = None
    lower_is_better: bool = False
    drop: float = 1.0
    budget: Mapping[str, float] | None = None
    importance: str | None = None
    keep: Sequence[str] = ()
    input_shape: Sequence[int] | None = None
    out_dir: str | os.PathLike[str] | None = None
    restart: bool = False


def sensitivity(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    options: SensitivityOptions | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Narrow one group at a time, measure the metric, and write what was found.

    ``sensitivity.json`` is written after every measurement, and what it holds is not measured
    again. At the end ``sensitivity.csv``, ``sensitivity.png`` and ``ratios.json`` are beside it.

    Args:
        config: Of any network with an evaluator, or of an AutoSlim around one.
        checkpoint: Of the plain network, or of the supernet.
        options: See ``SensitivityOptions``.
        cfg_options: Values to set in the config, by dotted key.

    Returns:
        The ratios.

    Raises:
        InputError: An option makes no sense, the config has no evaluator, or the file is of other
            measurements.
    """
    options = options or SensitivityOptions()
    _check(options)
    cfg = load_config(config, cfg_options)
    asked = PruneOptions(None, 1.0, options.importance, None, options.keep, options.input_shape)
    folder = Path(options.out_dir or Path(checkpoint).parent / 'sensitivity')
    names = ('sensitivity.json', 'sensitivity.csv', 'sensitivity.png', 'ratios.json')
    cfg = prunable_config(cfg, asked)
    check_outputs([folder / name for name in names], inputs=files_of(cfg, checkpoint))
    with in_words(asked.own_words):
        algorithm = build_algorithm(cfg, checkpoint)
    algorithm.pruner.set_max_channel()
    measure = measure_of(cfg, ('val', 'test'))
    full = measure(algorithm)
    metric = _metric(full, options.metric, str(cfg.filename))
    pruner_of_importance(algorithm.pruner, cfg)
    change = _change(algorithm, cfg, options.after)
    file, settings = folder / 'sensitivity.json', _settings(algorithm, cfg, metric, options)
    rows = [] if options.restart or not file.is_file() else _read(file, settings)
    known = {(row.group, row.channels) for row in rows}
    wanted = list(_widths(algorithm.pruner, options.shares))
    left = [each for each in wanted if each[:2] not in known]
    if len(left) < len(wanted):
        print_log(f'{file}: {len(wanted) - len(left)} of {len(wanted)} widths are known')
    with progress_bar() as stage:
        tick = stage('widths', len(left))
        for space_id, channels, subnet in left:
            found = judged(algorithm.pruner, subnet, measure, change)[metric]
            loss = (found - full[metric]) * (1 if options.lower_is_better else -1) + 0.0  # no -0
            size, cost = subnet[space_id].numel(), algorithm.pruner.cost(subnet)
            rows.append(Row(space_id, channels, size, found, loss, cost['macs'], cost['params']))
            write_data(asdict(_Table(FORMAT, settings, full[metric], rows)), file)
            tick()
    algorithm.pruner.set_max_channel()
    return _report(algorithm.pruner, rows, full[metric], metric, folder, options)


def _report(
    pruner: ImportancePruner,
    rows: list[Row],
    full: float,
    metric: str,
    folder: Path,
    options: SensitivityOptions,
) -> dict[str, float]:
    """Write and print everything but the measurements."""
    ratios = (
        ratios_of_drop(pruner, rows, options.drop)
        if options.budget is None
        else ratios_of_budget(pruner, rows, options.budget)
    )
    write_csv(rows, folder / 'sensitivity.csv')
    title = f'{metric}, {full:.4g} in full, after {options.after}'
    draw_rows(rows, list(pruner.channel_spaces), title, folder / 'sensitivity.png')
    write_data(ratios, folder / 'ratios.json')
    show(rows_table(rows, ratios, title))
    counts = {s: round(r * pruner.channel_groups[s].num_channels) for s, r in ratios.items()}
    cost, whole = pruner.cost(pruner.subnet_of_counts(counts)), pruner.cost()
    macs, params = (cost[name] / whole[name] for name in ('macs', 'params'))
    print_log(
        f'{folder}: sensitivity.json, .csv, .png, and ratios.json, by which {macs:.1%} of the MACs '
        f'and {params:.1%} of the parameters stay'
    )
    return ratios


def _check(options: SensitivityOptions) -> None:
    if not options.shares or not all(0 < share < 1 for share in options.shares):
        raise InputError(f'shares must be numbers between 0 and 1, not {list(options.shares)}')
    if options.after not in AFTER:
        raise InputError(f'after must be one of {", ".join(AFTER)}, not {options.after!r}')
    if options.budget is not None:
        check_budget(options.budget, has_latency=False)


def _metric(found: Mapping[str, float], wanted: str | None, config: str) -> str:
    """The metric to go by.

    Raises:
        InputError: There is none, or none of this name, or several and no name.
    """
    name = wanted or (next(iter(found)) if len(found) == 1 else None)
    if name is None or name not in found:
        has = ', '.join(found) or 'none: the config has no val_evaluator and no test_evaluator'
        raise InputError(
            f'{config}: which metric is to be measured? --metric NAME; there are {has}'
        )
    return name


def _widths(pruner: ImportancePruner, shares: Sequence[float]) -> Iterator[tuple[str, int, Subnet]]:
    """A group, how many channels it keeps, and the subnet in which all others are whole."""
    full = {s: mask.numel() for s, mask in pruner.channel_spaces.items()}
    for space_id, size in full.items():
        seen = {size}
        for share in sorted(shares, reverse=True):
            subnet = pruner.subnet_of_counts({**full, space_id: max(1, round(share * size))})
            channels = int(subnet[space_id].sum())
            if channels not in seen:
                seen.add(channels)
                yield space_id, channels, subnet


def _change(algorithm: AutoSlim, cfg: Config, after: str) -> Callable[[nn.Module], Any]:
    """What is done to the small network of a width before it is measured."""
    compensation = compensation_of(algorithm, cfg, 'LeastSquares') if after == AFTER[0] else None
    if compensation is not None:
        return compensation
    images = calibration_batches(cfg, algorithm.recalibration) if after == AFTER[1] else []
    batches = TrainingData(algorithm.data_preprocessor, images)
    return partial(recalibrate, batches=batches)


def _settings(
    algorithm: AutoSlim, cfg: Config, metric: str, options: SensitivityOptions
) -> dict[str, Any]:
    """What the measurements depend on."""
    names = ('val_dataloader', 'val_evaluator', 'test_dataloader', 'test_evaluator')
    data = Config(deepcopy({name: cfg.get(name) for name in (*names, 'prune_cfg', 'model')}))
    return {
        'weights': weights_key(algorithm.architecture.state_dict()),
        'config': hashlib.sha256(data.dump().encode()).hexdigest()[:16],
        'metric': metric,
        'after': options.after,
        'input': data_of(algorithm.pruner.supernet.demo_input),
    }


@dataclass(frozen=True)
class _Table:
    """What the file of the measurements holds."""

    format: Literal['mmprune sensitivity 1']
    settings: dict[str, Any]
    full: Metric
    rows: list[Row]

    def __post_init__(self) -> None:
        widths = [(row.group, row.channels) for row in self.rows]
        if len(set(widths)) < len(widths):
            raise ValueError('a width of a group stands twice')


def _read(path: Path, settings: Mapping[str, Any]) -> list[Row]:
    """What is known already.

    Raises:
        InputError: The file is none of these, or of other settings.
    """
    anew = 'Measure anew by --restart, or give another --out-dir'
    content = read_data(path, 'a table of sensitivities')
    table = checked(_Table, content, f'{path}: is no table of sensitivities. {anew}')
    found = table.settings
    changed = [key for key, value in settings.items() if found.get(key) != value]
    if changed:
        key = changed[0]
        raise InputError(
            f'{path}: was measured with other {", ".join(changed)} ({key} was {found.get(key)}, is '
            f'{settings[key]}). {anew}'
        )
    return table.rows
