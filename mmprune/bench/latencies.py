"""How well a table of layers predicts the times of whole subnets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmprune.bench.networks import batch_of, network_of, prepared, title_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.commands.subnet_times import SubnetTimes, measure_backends
from mmprune.latency import Device
from mmprune.trace.roads import as_road

SECTION = 'latency'
SUBNETS = 20


def latency_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks[-1:]:
        yield f'latency of subnets of {title_of(name)}', partial(latency_rows, name, options)


def latency_rows(name: str, options: BenchOptions) -> Iterator[Row]:
    """Build a table, predict random subnets, measure them; run the network by onnxruntime too."""
    device, seconds = options.device, options.seconds / 9
    network = network_of(name, device)
    data = batch_of(network, 1, options.size, device)
    road = as_road(data)
    times_of = SubnetTimes(network, prepared(network, data, kept='first'), road, seconds, True)
    with TemporaryDirectory() as folder:
        table = times_of.table(Path(folder) / 'latency.json', Device.of(device), rebuild=True)
    found = times_of.compare(table, SUBNETS, seed=1)
    title = f'{title_of(name)}, batch 1'
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
        what = f'{backend}: the narrowest subnet, deployed'
        yield Row.timed(SECTION, title, what, narrowest, 'the full network', full)
