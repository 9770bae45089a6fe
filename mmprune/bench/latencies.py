"""How well a table of layers predicts the times of whole subnets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmprune.bench.execution import NAMES, Step
from mmprune.bench.networks import batch_of, network_of, prepared
from mmprune.bench.rows import Row
from mmprune.commands.subnet_times import SubnetTimes, measure_backends
from mmprune.latency import Device
from mmprune.trace.roads import as_road

SECTION = 'latency'
SUBNETS = 20


def latency_steps(
    networks: tuple[str, ...], size: int, device: str, seconds: float
) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in networks:
        run = partial(latency_rows, name, size, device, seconds)
        yield f'latency of subnets of {NAMES.get(name, name)}', run


def latency_rows(name: str, size: int, device: str, seconds: float) -> Iterator[Row]:
    """Build a table, predict random subnets, measure them; run the network by onnxruntime too."""
    network = network_of(name, device)
    data = batch_of(network, 1, size, device)
    road = as_road(data)
    times_of = SubnetTimes(network, prepared(network, data, kept='first'), road, seconds, True)
    with TemporaryDirectory() as folder:
        table = times_of.table(Path(folder) / 'latency.json', Device.of(device), rebuild=True)
    found = times_of.compare(table, SUBNETS, seed=1)
    title = f'{NAMES.get(name, name)}, batch 1'
    yield Row(
        SECTION,
        f'{title}, {SUBNETS} random subnets',
        "rank correlation of the table's predictions with measured times",
        found.rank_correlation,
        '',
        'that of their MACs',
        found.rank_correlation_of_macs,
    )
    yield Row(
        SECTION,
        f'{title}, {SUBNETS} random subnets',
        'predicted, mean',
        1e3 * float(np.mean(found.predicted)),
        against='measured, mean',
        reference=1e3 * float(np.mean(found.measured)),
        spread=float(np.abs(found.errors).mean()),
        rounds=SUBNETS,
    )
    times, _ = measure_backends(
        times_of.networks(None), road, ('torch', 'onnxruntime'), 10 * seconds
    )
    for backend, by_name in times.items():
        full, narrowest = by_name.values()
        yield Row(
            SECTION,
            title,
            f'{backend}: the narrowest subnet, deployed',
            1e3 * narrowest.median,
            against='the full network',
            reference=1e3 * full.median,
            rounds=len(full.seconds),
            spread=narrowest.spread,
        )
