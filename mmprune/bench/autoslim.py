"""One training step of AutoSlim beside the plain steps of the networks that it trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch
from mmcls.structures import ClsDataSample
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmprune.bench.networks import RATIOS, network_of, title_of
from mmprune.bench.options import BenchOptions
from mmprune.bench.rows import Row, Step
from mmprune.latency.timing import Call, interleaved
from mmprune.models import AutoSlim
from mmprune.pruners.ratio_pruner import RatioPruner

TARGET = 1.15
DISTILLER = dict(
    type='SelfDistiller',
    components=[
        dict(
            student_module='head.fc',
            teacher_module='head.fc',
            losses=[dict(type='KLDivergence', tau=1, loss_weight=1)],
        )
    ],
)


def training_step(model: BaseModel, data: dict[str, Any]) -> Call:
    """A step of a model on a batch, with plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    return partial(model.train().train_step, data, OptimWrapper(optimizer))


def autoslim_steps(options: BenchOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks:
        title = f'{title_of(name)}, a step of AutoSlim'
        yield title, partial(autoslim_row, name, options)


def autoslim_row(name: str, options: BenchOptions) -> Iterator[Row]:
    """Largest, smallest and two random widths in the supernet, and each of them deployed."""
    batch = options.batches[-1]
    data = labelled(batch, options.size, options.device)
    # It is traced on an input of the CPU, and moved afterwards, as a runner does it.
    algorithm = slimmable(network_of(name, 'cpu'), options)
    pruner = algorithm.pruner
    subnets = [pruner.sample_subnet() for _ in range(2)]
    pruner.sample_subnet = cycle(subnets).__next__  # the same again and again
    steps = []
    for set_width in (
        pruner.set_max_channel, pruner.set_min_channel,
        *(partial(pruner.set_subnet, subnet) for subnet in subnets),
    ):  # fmt: skip
        set_width()
        plain = pruner.deploy_subnet(algorithm.architecture, pruner.export_subnet())
        steps.append(training_step(plain, data))
    pruner.set_max_channel()
    calls: dict[str, Call] = {
        'autoslim': training_step(algorithm, data),
        'deployed': lambda: [step() for step in steps],
    }
    times = interleaved(calls, 2 * options.seconds, options.device)
    yield Row.timed(
        'execution',
        f'{title_of(name)}, batch {batch}',
        'one step of AutoSlim: largest, smallest, two random',
        times['autoslim'],
        'the four deployed networks, a plain step each',
        times['deployed'],
        TARGET,
    )


def slimmable(network: nn.Module, options: BenchOptions) -> AutoSlim:
    """The supernet that the configs of AutoSlim make."""
    algorithm = AutoSlim(
        network,
        RatioPruner(RATIOS),
        distiller=copy.deepcopy(DISTILLER),
        input_shape=(1, 3, options.size, options.size),
    )
    return algorithm.to(options.device)


def labelled(count: int, size: int, device: torch.device | str) -> dict[str, Any]:
    """A batch of images of noise with labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    samples = [ClsDataSample().set_gt_label(number) for number in range(count)]
    return {'inputs': images.to(device), 'data_samples': samples}
