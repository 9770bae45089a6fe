"""How many subnets a second the closed form of the cost answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mmprune.bench.networks import batch_of, network_of, one_thread, prepared, title_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.cost import COLUMNS, CostTable
from mmprune.latency.timing import Call, interleaved

SECTION = 'cost'
LEAST = 100_000
SUBNETS = 100_000


def cost_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks:
        yield f'cost of subnets of {title_of(name)}', partial(cost_rows, name, options)


def cost_rows(name: str, options: BenchOptions) -> Iterator[Row]:
    """Rates on one thread, of single subnets and of many at once."""
    network = network_of(name, 'cpu')
    pruner = prepared(network, batch_of(network, 1, options.size, 'cpu'))
    table = pruner.cost_table()
    widths = random_widths(table, SUBNETS)
    subnet = pruner.sample_subnet()
    smooth = torch.from_numpy(widths[: SUBNETS // 10]).double().requires_grad_(True)
    calls: dict[str, Call] = {
        'pruner.cost, one by one': partial(pruner.cost, subnet),
        'CostTable.batch: MACs and parameters': partial(table.batch, widths),
        'CostTable.batch: traffic and peak too': partial(table.batch, widths, COLUMNS),
        'CostTable.differentiable, with gradients': partial(_differentiate, table, smooth),
    }
    counts = (1, SUBNETS, SUBNETS, len(smooth))
    with one_thread(), threadpool_limits(1):
        times = interleaved(calls, options.seconds / 2)
    for (what, each), count in zip(times.items(), counts, strict=True):
        yield Row(
            SECTION,
            f'{title_of(name)}, one thread',
            what,
            count / each.median,
            'subnets/s',
            least=LEAST if what.endswith('parameters') else None,
            rounds=len(each.seconds),
            spread=each.spread,
        )


def random_widths(table: CostTable, count: int) -> np.ndarray:
    """Widths of random subnets, (subnets, groups)."""
    random = np.random.default_rng(0)
    steps = table.full_widths // table.multiples
    drawn: np.ndarray = (1 + random.integers(0, steps, (count, len(steps)))) * table.multiples
    return drawn


def _differentiate(table: CostTable, widths: torch.Tensor) -> None:
    sum(table.differentiable(widths).values(), torch.zeros(())).sum().backward()
