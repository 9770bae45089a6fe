"""The networks that are measured, and how to run them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.pruners import StructurePruner, Subnet
from mmprune.registry import PRUNERS
from mmprune.trace.tracer import tensors_in
from mmprune.zoo.models import build, images

RATIOS = [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
KEPT = {'any': dict(type='RandomImportance', seed=0), 'first': None}
"""Which channels the subnets keep."""
NAMES = {'resnet50': 'ResNet-50', 'mobilenet_v2_1x': 'MobileNetV2'}


def title_of(name: str) -> str:
    """What rows call a network."""
    return NAMES.get(name, name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which torch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def network_of(name: str, device: torch.device | str) -> nn.Module:
    """A network of mmcls in float32, in eval mode."""
    return build(name).float().to(device).eval()


def batch_of(network: nn.Module, count: int, size: int, device: torch.device | str) -> torch.Tensor:
    """A batch of images of this size, or of one that the network takes."""
    plain = network if torch.device(device).type == 'cpu' else copy.deepcopy(network).cpu()
    try:
        found = images(plain, size, count)
    except InputError:
        found = images(plain, None, count)
    return found.to(device)


def prepared(
    network: nn.Module, batch: torch.Tensor, execution: str = 'slice', kept: str = 'any'
) -> StructurePruner:
    """A pruner with ``network`` itself as its supernet."""
    settings = dict(type='RatioPruner', ratios=RATIOS, importance=KEPT[kept])
    pruner: StructurePruner = PRUNERS.build(
        {'_scope_': 'mmprune', 'execution': execution, **settings}
    )
    pruner.prepare_from_supernet(network, demo_input=batch)
    return pruner


def half(pruner: StructurePruner) -> Subnet:
    """The subnet that keeps half of every group."""
    return pruner.subnet_of_counts(
        {n: max(1, group.num_channels // 2) for n, group in pruner.channel_groups.items()}
    )


@dataclass(frozen=True)
class Pass:
    """A forward pass in eval mode, or one with its backward pass in train mode.

    Attributes:
        network: What is run.
        batch: The images.
        with_backward: Whether gradients of all parameters are computed too.
    """

    network: nn.Module
    batch: torch.Tensor
    with_backward: bool = False

    def __call__(self) -> None:
        """Run it."""
        if not self.with_backward:
            with torch.no_grad():
                self.network(self.batch)
            return
        loss_of(self.network(self.batch)).backward()

    def make_ready(self) -> None:
        """Set the mode unless it is set, and forget the gradients of the pass before."""
        if self.network.training != self.with_backward:
            self.network.train(self.with_backward)
        self.network.zero_grad(set_to_none=True)


def loss_of(outputs: Any) -> torch.Tensor:
    """A number that depends on all outputs."""
    return torch.stack([output.float().mean() for output in tensors_in(outputs)]).sum()
