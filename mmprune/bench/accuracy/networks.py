"""The two networks whose accuracy is measured, and a count of their multiply-adds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmcls.models import GlobalAveragePooling, ImageClassifier
from mmcls.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

CLASSES = 10
PIXELS = dict(type='mmcls.ClsDataPreprocessor', num_classes=CLASSES, mean=[77.8], std=[95.8])
"""As in ``configs/_base_/datasets/digits.py``."""
DEMO_SHAPE = (1, 1, 8, 8)


class SmallVGG(nn.Module):
    """Pairs of 3x3 convolutions with batch norm and ReLU; behind every pair, half the size.

    After Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2015, with norms, for images of 8x8.

    Args:
        widths: Channels of each pair.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for number, width in enumerate(widths):
            for channels in (before, width):
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if number < len(widths) - 1:
                layers.append(nn.MaxPool2d(2))
            before = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """(N, 1, H, W) -> one feature map, (N, C, H / 4, W / 4), flattened."""
        return (self.layers(x).flatten(1),)


def _classifier(backbone: nn.Module, neck: nn.Module | None, features: int) -> nn.Module:
    head = dict(type='mmcls.LinearClsHead', num_classes=CLASSES, in_channels=features)
    head['loss'] = dict(type='mmcls.CrossEntropyLoss', loss_weight=1.0)
    return ImageClassifier(backbone, neck, head, data_preprocessor=dict(PIXELS))


def small_resnet(width: int = 16) -> nn.Module:
    """The ResNet of ``configs/_base_/models/resnet_small.py``: three stages of two blocks."""
    backbone = MODELS.build(
        dict(
            type='mmcls.ResNet_CIFAR',
            depth=18,
            in_channels=1,
            stem_channels=width,
            base_channels=width,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        )
    )
    return _classifier(backbone, GlobalAveragePooling(), 4 * width)


def small_vgg(width: int = 16) -> nn.Module:
    """Six convolutions, of one, two and four times ``width``, and a linear layer on 2x2 pixels."""
    return _classifier(SmallVGG((width, 2 * width, 4 * width)), None, 4 * 4 * width)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {'resnet': small_resnet, 'vgg': small_vgg}
TITLES = {'resnet': 'ResNet', 'vgg': 'VGG'}


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing but warnings from mmengine's logger, to which every drawn weight is told."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def build(name: str, width: int, seed: int) -> nn.Module:
    """A network with numbers drawn from a seed."""
    torch.manual_seed(seed)
    network: Any = NETWORKS[name](width)
    with quiet():
        network.init_weights()
    return network


def demo_input() -> torch.Tensor:
    """The input that networks are traced with, and their cost is counted for."""
    return torch.rand(DEMO_SHAPE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def count_macs(network: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers for one image, seen in a forward pass.

    One count for all that is compared, and none of those that pruners go by.
    """
    total = 0

    def see(module: nn.Module, _: object, output: torch.Tensor, weight: torch.Tensor) -> None:
        nonlocal total
        # Every number of the output takes one per number of its filter.
        total += output.numel() * weight[0].numel()

    handles = [
        module.register_forward_hook(partial(see, weight=module.weight))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    was_training = network.training
    try:
        network.eval()(demo_input())
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return total


def count_params(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
