"""One training step of AutoSlim beside the plain steps of the networks that it trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from mmcls.structures import ClsDataSample
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmprune.bench.execution import NAMES, ExecutionOptions, Step
from mmprune.bench.networks import RATIOS, network_of
from mmprune.bench.rows import Row
from mmprune.latency.timing import Call, interleaved
from mmprune.models import AutoSlim
from mmprune.pruners import Subnet
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


class Replay(RatioPruner):
    """Draws the same random subnets again and again, so that they can be deployed beside it."""

    drawn: Iterator[Subnet] | None = None

    def replay(self, subnets: Sequence[Subnet]) -> None:
        """Draw these from now on."""
        self.drawn = cycle(subnets)

    def sample_subnet(self) -> Subnet:
        """The next of them."""
        return super().sample_subnet() if self.drawn is None else next(self.drawn)


@dataclass
class Training:
    """A model, its optimizer and a batch.

    Attributes:
        model: An algorithm, or a plain network of mmcls.
        optim_wrapper: With the model's parameters.
        data: A batch as a dataloader gives it.
    """

    model: BaseModel
    optim_wrapper: OptimWrapper
    data: dict[str, Any]

    @classmethod
    def of(cls, model: BaseModel, data: dict[str, Any]) -> Training:
        """A model in train mode, with plain SGD."""
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
        return cls(model.train(), OptimWrapper(optimizer), data)

    def step(self) -> None:
        """Train on the batch."""
        self.model.train_step(self.data, self.optim_wrapper)


def autoslim_steps(options: ExecutionOptions) -> Iterator[Step]:
    """What is to be done, a title each."""
    for name in options.networks:
        title = f'{NAMES.get(name, name)}, a step of AutoSlim'
        yield title, partial(autoslim_row, name, options)


def autoslim_row(name: str, options: ExecutionOptions) -> Iterator[Row]:
    """Largest, smallest and two random widths in the supernet, and each of them deployed."""
    batch = options.batches[-1]
    data = labelled(batch, options.size, options.device)
    # It is traced on an input of the CPU, and moved afterwards, as a runner does it.
    algorithm = slimmable(network_of(name, 'cpu'), options)
    pruner = algorithm.pruner
    subnets = [pruner.sample_subnet() for _ in range(2)]
    pruner.replay(subnets)
    trainings = []
    for subnet in (_ends(pruner)[0], _ends(pruner)[1], *subnets):
        pruner.set_subnet(subnet)
        plain = pruner.deploy_subnet(algorithm.architecture, pruner.export_subnet())
        trainings.append(Training.of(plain, data))
    pruner.set_max_channel()
    calls: dict[str, Call] = {
        'autoslim': Training.of(algorithm, data).step,
        'deployed': partial(_all_steps, trainings),
    }
    times = interleaved(calls, 2 * options.seconds, options.device)
    yield Row(
        'execution',
        f'{NAMES.get(name, name)}, batch {batch}',
        'one step of AutoSlim: largest, smallest, two random',
        1e3 * times['autoslim'].median,
        against='the four deployed networks, a plain step each',
        reference=1e3 * times['deployed'].median,
        most=TARGET,
        rounds=len(times['autoslim'].seconds),
        spread=times['autoslim'].spread,
    )


def slimmable(network: nn.Module, options: ExecutionOptions) -> AutoSlim:
    """The supernet that the configs of AutoSlim make."""
    pruner = Replay(RATIOS)
    algorithm = AutoSlim(
        network,
        pruner,
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


def _ends(pruner: Replay) -> tuple[Subnet, Subnet]:
    """The largest and the smallest subnet."""
    found = []
    for set_width in (pruner.set_max_channel, pruner.set_min_channel):
        set_width()
        found.append(pruner.current_subnet())
    return found[0], found[1]


def _all_steps(trainings: Sequence[Training]) -> None:
    for training in trainings:
        training.step()
