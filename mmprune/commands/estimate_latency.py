"""What tools/latency.py does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmprune.commands.configured_input import SUPERNETS, input_of
from mmprune.commands.diagnose import network_and_pruner
from mmprune.commands.latency_report import (
    backends_table,
    comparison_table,
    draw_comparison,
    rounding_table,
)
from mmprune.commands.subnet_times import SECONDS_PER_SUBNET, SubnetTimes, measure_backends
from mmprune.config import files_of, load_config, work_dir_of
from mmprune.datafiles import write_data
from mmprune.errors import InputError, check_choice
from mmprune.fileio import check_outputs
from mmprune.latency import Device, data_of
from mmprune.latency.rounding import rounding_rows
from mmprune.randomness import seeded
from mmprune.report.tables import wide_console

SHARES = tuple(number / 8 for number in range(1, 9))
"""Ratios that random subnets are drawn from where the config has no pruner."""


@dataclass(frozen=True)
class LatencyOptions:
    """What to measure.

    Attributes:
        table: File of the table; by default ``latency.json`` in the config's work directory.
        rebuild: Measure the layers even if the file is there.
        subnets: Random subnets to compare with; 0 for none.
        backends: How to run the full network and the subnet.
        channel_cfg: The subnet; by default the narrowest.
        widths: So many layers are timed at neighbouring widths; 0 for none.
        input_shape: (N, C, H, W) or (C, H, W); by default the AutoSlim's, or the first
            test image's.
        device: Where to measure.
        threads: CPU threads of torch; None for as many as it has.
        seed: Of the subnets.
        plot: Where to draw predictions over measurements.
        json: Where to write all numbers.
    """

    table: str | os.PathLike[str] | None = None
    rebuild: bool = False
    subnets: int = 20
    backends: Sequence[str] = ('torch',)
    channel_cfg: str | os.PathLike[str] | None = None
    widths: int = 0
    input_shape: Sequence[int] | None = None
    device: str = 'cpu'
    threads: int | None = None
    seed: int = 0
    plot: str | os.PathLike[str] | None = None
    json: str | os.PathLike[str] | None = None


def estimate_latency(
    config: str | os.PathLike[str] | Config,
    options: LatencyOptions = LatencyOptions(),
    cfg_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a network's layers by width, and say how well that predicts whole subnets.

    Args:
        config: A config with a model: a plain network, or an AutoSlim, whose pruner is used.
        options: What to measure.
        cfg_options: Values to set in the config, by dotted key.

    Returns:
        All numbers, as plain data.

    Raises:
        InputError: The config, the table or the channel config cannot be used, or the
            device is not there.
    """
    cfg = load_config(config, cfg_options)
    if options.subnets == 1 or options.subnets < 0:
        raise InputError(f'a rank correlation needs 2 subnets or more, not {options.subnets}')
    if options.plot is not None:
        check_choice('the suffix of --plot', Path(options.plot).suffix, ('.png', '.svg', '.pdf'))
    path = Path(options.table or work_dir_of(cfg) / 'latency.json')
    # The config may name the table already, for its pruner or for a search.
    parts = cfg.get('search_cfg'), cfg.get('pruner'), (cfg.get('model') or {}).get('pruner')
    tables = [part.get('latency') for part in parts if part]
    inputs = [file for file in files_of(cfg, options.channel_cfg) if file not in tables]
    check_outputs([path, options.plot, options.json], inputs=inputs)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = Device.of(options.device)
    times_of = _prepared(cfg, options)
    console = wide_console()
    console.print(f'{device}, input {data_of(times_of.data)}', soft_wrap=True, highlight=False)
    table = times_of.table(path, device, options.rebuild)
    found: dict[str, Any] = {'device': asdict(device), 'table': str(path)}
    if options.subnets:
        comparison = times_of.compare(table, options.subnets, options.seed + 1)
        console.print(comparison_table(comparison))
        found['comparison'] = asdict(comparison)
        if options.plot is not None:
            draw_comparison(comparison, device, Path(options.plot))
            print(f'written: {options.plot}')
    networks = times_of.networks(options.channel_cfg)
    times, missing = measure_backends(networks, times_of.road, options.backends)
    console.print(backends_table(times))
    for reason in missing:
        console.print(f'not measured: {reason}', soft_wrap=True, markup=False)
    found['backends'] = {
        backend: {name: each.median for name, each in by_name.items()}
        for backend, by_name in times.items()
    }
    if options.widths:
        rounding = times_of.rounding(table, options.widths)
        console.print(rounding_table(rounding))
        found['rounding'] = rounding_rows(rounding)
        found['round_to'] = rounding.suggestion
    if options.json is not None:
        write_data(found, options.json)
    return found


def _prepared(cfg: Config, options: LatencyOptions) -> SubnetTimes:
    """Build and prepare the network of a config."""
    if not cfg.get('model'):
        raise InputError(f'{cfg.filename}: there is nothing to measure: it has no model')
    if cfg.model.get('type') not in SUPERNETS and not cfg.get('pruner'):
        cfg = deepcopy(cfg)
        cfg.pruner = dict(type='RatioPruner', ratios=SHARES)
    with seeded(options.seed):
        network, pruner = network_and_pruner(cfg)
    network = network.float().eval().to(options.device)
    roads = input_of(cfg, network, options.input_shape).roads(network)
    pruner.prepare_from_supernet(network, demo_input=roads)
    return SubnetTimes(network, pruner, roads[0], SECONDS_PER_SUBNET)
