"""What tools/latency.py does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr
from torch import nn

from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.engine.backends import UnavailableError, measure_networks
from mmprune.engine.diagnose import DEFAULT_SHAPE, SUPERNETS, network_and_pruner
from mmprune.engine.latency_report import (
    backends_table,
    comparison_table,
    draw_comparison,
    rounding_table,
)
from mmprune.engine.randomness import seeded
from mmprune.engine.report import wide_console
from mmprune.errors import InputError
from mmprune.fileio import atomic_path
from mmprune.latency import (
    Device,
    LatencyEstimator,
    LatencyTable,
    Times,
    build_table,
    data_of,
    interleaved,
    widths_of_groups,
)
from mmprune.latency.rounding import (
    RoundingReport,
    heaviest,
    measure_rounding,
    rounding_rows,
)
from mmprune.models.autoslim import demo_input
from mmprune.pruners import StructurePruner, Subnet

SHARES = tuple(number / 8 for number in range(1, 9))
"""Ratios that random subnets are drawn from where the config has no pruner."""
FITTED = 10
"""Random subnets that the correction is fitted to, beside the widest and the narrowest."""
SECONDS_PER_SUBNET = 1.5


@dataclass(frozen=True)
class Comparison:
    """Predictions beside measurements of random subnets.

    Attributes:
        macs: MACs of each subnet.
        predicted: Seconds by the table.
        measured: Seconds of the deployed networks, by torch.
    """

    macs: tuple[int, ...]
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def errors(self) -> np.ndarray:
        """Relative errors of the predictions."""
        return np.array(self.predicted) / np.array(self.measured) - 1

    @property
    def rank_correlation(self) -> float:
        """Spearman's, between predictions and measurements; NaN if all are equal."""
        return _rank_correlation(self.predicted, self.measured)

    @property
    def rank_correlation_of_macs(self) -> float:
        """Spearman's, between MACs and measurements: what a table must be better than."""
        return _rank_correlation(self.macs, self.measured)


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    if len(set(first)) == 1 or len(set(second)) == 1:
        return float('nan')
    return float(spearmanr(first, second).statistic)


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
        input_shape: (N, C, H, W) or (C, H, W); by default the AutoSlim's, or 1x3x224x224.
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
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = Device.of(options.device)
    bench = Bench.of(cfg, options)
    console = wide_console()
    console.print(f'{device}, input {data_of(bench.data)}', soft_wrap=True, highlight=False)
    path = Path(options.table or Path(_work_dir(cfg)) / 'latency.json')
    table = bench.table(path, device, options.rebuild)
    found: dict[str, Any] = {'device': asdict(device), 'table': str(path)}
    if options.subnets:
        comparison = bench.compare(table, options.subnets, options.seed + 1)
        console.print(comparison_table(comparison))
        found['comparison'] = asdict(comparison)
        if options.plot is not None:
            draw_comparison(comparison, device, Path(options.plot))
            print(f'written: {options.plot}')
    networks = bench.networks(options.channel_cfg)
    times, missing = measure_backends(networks, bench.data, options.backends)
    console.print(backends_table(times))
    for reason in missing:
        console.print(f'not measured: {reason}', soft_wrap=True, markup=False)
    found['backends'] = {
        backend: {name: each.median for name, each in by_name.items()}
        for backend, by_name in times.items()
    }
    if options.widths:
        rounding = bench.rounding(table, options.widths)
        console.print(rounding_table(rounding))
        found['rounding'] = rounding_rows(rounding)
        found['round_to'] = rounding.suggestion
    if options.json is not None:
        with atomic_path(options.json) as unfinished:
            unfinished.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    return found


@dataclass(frozen=True)
class Bench:
    """A prepared network, and what is measured of it.

    Attributes:
        network: The supernet, in float32.
        pruner: Its pruner.
        data: The input.
    """

    network: nn.Module
    pruner: StructurePruner
    data: torch.Tensor

    @classmethod
    def of(cls, cfg: Config, options: LatencyOptions) -> Bench:
        """Build and prepare the network of a config."""
        if not cfg.get('model'):
            raise InputError(f'{cfg.filename}: there is nothing to measure: it has no model')
        if cfg.model.get('type') not in SUPERNETS and not cfg.get('pruner'):
            cfg = Config({**cfg._cfg_dict, 'pruner': dict(type='RatioPruner', ratios=SHARES)})
        with seeded(options.seed):
            network, pruner, own_shape = network_and_pruner(cfg)
        shape = tuple(options.input_shape or own_shape or DEFAULT_SHAPE)
        data = demo_input(shape).to(options.device)
        network = network.float().eval().to(options.device)
        pruner.prepare_from_supernet(network, demo_input=data)
        return cls(network, pruner, data)

    def table(self, path: Path, device: Device, rebuild: bool) -> LatencyTable:
        """The table in a file, or a new one that is written to it."""
        if path.is_file() and not rebuild:
            table = LatencyTable.load(path)
            groups = widths_of_groups(self.pruner.supernet)
            table.check(path, device, data_of(self.data), groups)
            print(f'{path}: {len(table.layers)} layers, measured before')
            return table
        plain = self.deployed(self._full())
        steps = partial(_progress, 'layers by width')
        run = partial(_run, data=self.data)
        table = build_table(plain, self.pruner.supernet, run, self.data.device, track=steps)
        estimator = LatencyEstimator(table, self.pruner.supernet)
        subnets = [self._full(), self._narrowest(), *self.random_subnets(FITTED, seed=0)]
        measured = self.measure(subnets, 'correction')
        table = table.corrected(estimator.fit(self._widths(subnets), measured))
        table.save(path)
        print(f'{path}: {len(table.layers)} layers, measured now')
        return table

    def compare(self, table: LatencyTable, count: int, seed: int) -> Comparison:
        """Predict and measure random subnets."""
        subnets = self.random_subnets(count, seed)
        estimator = LatencyEstimator(table, self.pruner.supernet)
        widths = self._widths(subnets)
        macs = self.pruner.cost_table().batch(widths, ['macs'])['macs']
        predicted = estimator.batch(widths)
        measured = self.measure(subnets, 'random subnets')
        return Comparison(tuple(macs.tolist()), tuple(predicted.tolist()), tuple(measured))

    def random_subnets(self, count: int, seed: int) -> list[Subnet]:
        """Subnets as the pruner draws them, any two of which differ."""
        found: dict[bytes, Subnet] = {}
        with seeded(seed):
            for _ in range(20 * count):
                subnet = self.pruner.sample_subnet()
                found.setdefault(self._widths([subnet]).tobytes(), subnet)
                if len(found) == count:
                    return list(found.values())
        raise InputError(
            f'the pruner draws only {len(found)} different subnets, and {count} are needed: give '
            'it more widths, as in --cfg-options pruner.ratios="[0.25,0.5,0.75,1.0]"'
        )

    def measure(self, subnets: Sequence[Subnet], what: str) -> list[float]:
        """Seconds of the deployed subnets, which take turns: of the fastest round of each.

        A table is made and used on different days: medians would hold what else the
        machine did on each of them.
        """
        networks = [self.deployed(subnet) for subnet in _progress(what, subnets, len(subnets))]
        calls = {str(n): partial(_run, each, data=self.data) for n, each in enumerate(networks)}
        times = interleaved(calls, SECONDS_PER_SUBNET * len(calls), self.data.device)
        return [times[name].fastest for name in calls]

    def networks(self, channel_cfg: str | os.PathLike[str] | None) -> dict[str, nn.Module]:
        """The full network and the subnet, deployed."""
        if channel_cfg is None:
            return {
                'full network': self.deployed(self._full()),
                'narrowest subnet': self.deployed(self._narrowest()),
            }
        subnet = self.pruner.load_channel_cfg(load_channel_cfg(Path(channel_cfg)))
        return {
            'full network': self.deployed(self._full()),
            str(channel_cfg): self.deployed(subnet),
        }

    def rounding(self, table: LatencyTable, count: int) -> RoundingReport:
        """Times of the heaviest layers at neighbouring widths."""
        shapes = heaviest(table, count)
        return measure_rounding(
            _progress('neighbouring widths', shapes, len(shapes)), self.data.device
        )

    def deployed(self, subnet: Subnet) -> nn.Module:
        """The plain network of a subnet."""
        before = self.pruner.current_subnet()
        self.pruner.set_subnet(subnet)
        try:
            return self.pruner.deploy_subnet(self.network, self.pruner.export_subnet()).eval()
        finally:
            self.pruner.set_subnet(before)

    def _full(self) -> Subnet:
        return {name: torch.ones_like(m) for name, m in self.pruner.channel_spaces.items()}

    def _narrowest(self) -> Subnet:
        before = self.pruner.current_subnet()
        self.pruner.set_min_channel()
        narrowest = self.pruner.current_subnet()
        self.pruner.set_subnet(before)
        return narrowest

    def _widths(self, subnets: Sequence[Subnet]) -> np.ndarray:
        return np.stack([self.pruner.cost_table().widths_of(subnet) for subnet in subnets])


def measure_backends(
    networks: Mapping[str, nn.Module], data: torch.Tensor, backends: Sequence[str]
) -> tuple[dict[str, dict[str, Times]], list[str]]:
    """Times of networks by each backend, and why some could not be measured."""
    found: dict[str, dict[str, Times]] = {}
    missing: list[str] = []
    for backend in backends:
        try:
            found[backend] = measure_networks(networks, data, backend, 3.0 * len(networks))
        except UnavailableError as error:
            missing.append(str(error))
    return found, missing


def _run(network: nn.Module, data: torch.Tensor) -> Any:
    with torch.no_grad():
        return network(data)


def _progress(what: str, steps: Iterable[Any], total: int) -> Iterable[Any]:
    """The steps, with a progress bar on the standard error."""
    return track(steps, what, total, console=Console(stderr=True), transient=True)


def _work_dir(cfg: Config) -> str:
    with suppress(AttributeError):
        return str(cfg.work_dir)
    return f'work_dirs/{Path(cfg.filename or "config").stem}'
