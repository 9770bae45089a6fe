"""Predicting and measuring the times of one network's subnets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr
from torch import nn

from mmprune.commands.backends import UnavailableError, measure_networks
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
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
from mmprune.latency.rounding import RoundingReport, heaviest, measure_rounding
from mmprune.pruners import StructurePruner, Subnet
from mmprune.randomness import seeded
from mmprune.trace.roads import OnRoad, Road

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
class SubnetTimes:
    """A prepared network, and what is measured of it.

    Attributes:
        network: The supernet, in float32.
        pruner: Its pruner.
        road: What it is run on, a tensor at least.
        seconds: How long each subnet is measured.
        is_quiet: Whether it prints nothing, and shows no progress.
    """

    network: nn.Module
    pruner: StructurePruner
    road: Road
    seconds: float
    is_quiet: bool = False

    def table(self, path: Path, device: Device, rebuild: bool) -> LatencyTable:
        """The table in a file, or a new one that is written to it."""
        if path.is_file() and not rebuild:
            table = LatencyTable.load(path)
            groups = widths_of_groups(self.pruner.supernet)
            table.check(path, device, data_of(self.data), groups)
            self._tell(f'{path}: {len(table.layers)} layers, measured before')
            return table
        plain = self.deployed(self.pruner.full_subnet())
        steps = partial(self._progress, 'layers by width')
        network, where = self.pruner.supernet, self.data.device
        table = build_table(plain, network, self.road.run, where, track=steps)
        estimator = LatencyEstimator(table, self.pruner.supernet)
        ends = [self.pruner.full_subnet(), self.pruner.smallest_subnet()]
        subnets = [*ends, *self.random_subnets(FITTED, seed=0)]
        measured = self.measure(subnets, 'correction')
        table = table.corrected(estimator.fit(self._widths(subnets), measured))
        table.save(path)
        self._tell(f'{path}: {len(table.layers)} layers, measured now')
        return table

    def compare(self, table: LatencyTable, count: int, seed: int) -> Comparison:
        """Predict and measure random subnets."""
        subnets = self.random_subnets(count, seed)
        estimator = LatencyEstimator(table, self.pruner.supernet)
        widths = self._widths(subnets)
        macs = [int(cost['macs']) for cost in self.pruner.costs(subnets, widths)]
        predicted = estimator.batch(widths)
        measured = self.measure(subnets, 'random subnets')
        return Comparison(tuple(macs), tuple(predicted.tolist()), tuple(measured))

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
        networks = [self.deployed(subnet) for subnet in self._progress(what, subnets, len(subnets))]
        calls = {str(n): partial(self.road.run, each) for n, each in enumerate(networks)}
        with torch.no_grad():
            times = interleaved(calls, self.seconds * len(calls), self.data.device)
        return [times[name].fastest for name in calls]

    def networks(self, channel_cfg: str | os.PathLike[str] | None) -> dict[str, nn.Module]:
        """The full network and the subnet, deployed."""
        if channel_cfg is None:
            name, subnet = 'narrowest subnet', self.pruner.smallest_subnet()
        else:
            name = str(channel_cfg)
            subnet = self.pruner.load_channel_cfg(load_channel_cfg(Path(channel_cfg)))
        full = self.deployed(self.pruner.full_subnet())
        return {'full network': full, name: self.deployed(subnet)}

    @property
    def data(self) -> torch.Tensor:
        """The input."""
        return self.road.images

    def rounding(self, table: LatencyTable, count: int) -> RoundingReport:
        """Times of the heaviest layers at neighbouring widths."""
        shapes = heaviest(table, count)
        return measure_rounding(
            self._progress('neighbouring widths', shapes, len(shapes)), self.data.device
        )

    def deployed(self, subnet: Subnet) -> nn.Module:
        """The plain network of a subnet."""
        before = self.pruner.current_subnet()
        self.pruner.set_subnet(subnet)
        try:
            return self.pruner.deploy_subnet(self.network, self.pruner.export_subnet()).eval()
        finally:
            self.pruner.set_subnet(before)

    def _tell(self, text: str) -> None:
        if not self.is_quiet:
            print(text)

    def _progress(self, what: str, steps: Iterable[Any], total: int) -> Iterable[Any]:
        """The steps, with a progress bar on the standard error."""
        console = Console(stderr=True)
        return track(steps, what, total, console=console, transient=True, disable=self.is_quiet)

    def _widths(self, subnets: Sequence[Subnet]) -> np.ndarray:
        return np.stack([self.pruner.cost_table().widths_of(subnet) for subnet in subnets])


def measure_backends(
    networks: Mapping[str, nn.Module],
    road: Road,
    backends: Sequence[str],
    seconds: float = 6.0,
) -> tuple[dict[str, dict[str, Times]], list[str]]:
    """Times of networks by each backend in ``seconds``, and why some could not be measured."""
    found: dict[str, dict[str, Times]] = {}
    missing: list[str] = []
    networks = {name: OnRoad.of(network, road) for name, network in networks.items()}
    for backend in backends:
        try:
            found[backend] = measure_networks(networks, road.images, backend, seconds)
        except UnavailableError as error:
            missing.append(str(error))
    return found, missing
