"""Training and testing, the same for every network that is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmcls.structures import ClsDataSample
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn import functional as F

from mmprune.bench.accuracy.data import Images
from mmprune.models import AutoSlim
from mmprune.models.losses import KLDivergence

BATCH = 64
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
ADAMW_DECAY = 0.05
TEMPERATURE = 2.0
"""Of the logits that a teacher's are compared with."""
WARMUP = 0.1
"""Share of a training during which the learning rate grows."""


def shifted(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images moved by up to one pixel in each direction, black coming in."""
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, count), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def batches(
    images: Images, epochs: float, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled and shifted batches, (B, 1, H, W) and (B,); they depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    left = num_steps(images, epochs)
    while left:
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            if not left:
                return
            yield shifted(images.inputs[chosen], generator), images.labels[chosen]
            left -= 1


def num_steps(images: Images, epochs: float) -> int:
    """Steps of so many epochs."""
    return round(epochs * -(-len(images) // BATCH))


def pixels(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the network's own preprocessor makes of images."""
    preprocessor: Any = network.data_preprocessor
    return preprocessor({'inputs': inputs})['inputs']


def loss_of(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The cross entropy of a batch."""
    inputs, labels = batch
    return F.cross_entropy(network(pixels(network, inputs)), labels)


def train(
    network: nn.Module,
    images: Images,
    epochs: float,
    lr: float,
    seed: int,
    add_gradients: Callable[[float], None] | None = None,
    optimizer: str = 'SGD',
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train in place, with warm-up and a cosine; return the network in eval mode.

    Args:
        network: A classifier, or a supernet of one, of which four widths are trained a step.
        images: To train on.
        epochs: How often each is seen.
        lr: The highest learning rate.
        seed: Of the order of the images and of their shifts.
        add_gradients: Called before every step with the share of the training that is over.
        optimizer: ``'SGD'`` with momentum, or ``'AdamW'``.
        teacher: What a network gives is drawn to what this one gives, besides to the labels.
    """
    steps = num_steps(images, epochs)
    made = _optimizer(network, lr, optimizer)
    wrapper = OptimWrapper(made)
    own_step: Any = network.train_step if isinstance(network, AutoSlim) else None
    network.train()
    for step, batch in enumerate(batches(images, epochs, seed)):
        for group in made.param_groups:
            group['lr'] = lr * _schedule((step + 0.5) / steps)
        if own_step is not None:
            own_step(_as_mmcls(batch), wrapper)
            continue
        made.zero_grad()
        _loss(network, batch, teacher).backward()
        if add_gradients is not None:
            add_gradients(step / steps)
        made.step()
    return network.eval()


def _optimizer(network: nn.Module, lr: float, name: str) -> torch.optim.Optimizer:
    if name == 'AdamW':
        return torch.optim.AdamW(network.parameters(), lr, weight_decay=ADAMW_DECAY)
    return torch.optim.SGD(
        network.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )


def _loss(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], teacher: nn.Module | None
) -> torch.Tensor:
    """The cross entropy; with a teacher, its mean with the divergence from it."""
    if teacher is None:
        return loss_of(network, batch)
    inputs, labels = batch
    inputs = pixels(network, inputs)
    logits = network(inputs)
    with torch.no_grad():
        wanted = teacher(inputs)
    return (F.cross_entropy(logits, labels) + KLDivergence(TEMPERATURE)(logits, wanted)) / 2


def _schedule(time: float) -> float:
    if time < WARMUP:
        return time / WARMUP
    return 0.5 * (1 + float(np.cos(np.pi * (time - WARMUP) / (1 - WARMUP))))


def _as_mmcls(batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, object]:
    inputs, labels = batch
    samples = [ClsDataSample().set_gt_label(int(label)) for label in labels]
    return {'inputs': inputs, 'data_samples': samples}


@torch.no_grad()
def accuracy(network: nn.Module, images: Images) -> float:
    """Percent of the images that are told right, in eval mode."""
    network.eval()
    predicted = network(pixels(network, images.inputs)).argmax(1)
    return 100 * float((predicted == images.labels).double().mean())
