"""The networks whose accuracy is measured, and a count of their multiply-adds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmcls.models import GlobalAveragePooling, ImageClassifier
from mmcls.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

from mmprune.bench.accuracy.backbones import SmallMobileNet, SmallVGG, SmallViT
from mmprune.bench.accuracy.criteria import MEASURES, OF_DIGITS, THEIRS
from mmprune.bench.accuracy.data import DATA, Data
from mmprune.trace.model_state import modes_kept
from mmprune.zoo.running import counted_run

CLASSES = 10


def _classifier(
    backbone: nn.Module, neck: nn.Module | None, features: int, data: Data
) -> nn.Module:
    head = dict(type='mmcls.LinearClsHead', num_classes=CLASSES, in_channels=features)
    head['loss'] = dict(type='mmcls.CrossEntropyLoss', loss_weight=1.0)
    network = ImageClassifier(backbone, neck, head, data_preprocessor=preprocessor(data))
    network.data_preprocessor.image_shape = data.shape
    return network


def preprocessor(data: Data) -> dict[str, Any]:
    """Config of what makes a network's inputs of the images of a data set."""
    norm = dict(mean=[data.mean], std=[data.std])
    return dict(type='mmcls.ClsDataPreprocessor', num_classes=CLASSES, **norm)


def small_resnet(width: int, data: Data) -> nn.Module:
    """The ResNet of ``configs/_base_/models/resnet_small.py``: three stages of two blocks.

    Larger images are made half as large by its first block.
    """
    backbone = MODELS.build(
        dict(
            type='mmcls.ResNet_CIFAR',
            depth=18,
            in_channels=1,
            stem_channels=width,
            base_channels=width,
            num_stages=3,
            strides=(1 if data.size < 16 else 2, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        )
    )
    return _classifier(backbone, GlobalAveragePooling(), 4 * width, data)


def small_vgg(width: int, data: Data) -> nn.Module:
    """Six convolutions, of one, two and four times ``width``, and a linear layer on 2x2 pixels."""
    return _classifier(SmallVGG((width, 2 * width, 4 * width)), None, 4 * 4 * width, data)


def small_mobilenet(width: int, data: Data) -> nn.Module:
    """Inverted residuals of three widths, a last convolution, a linear layer on its mean."""
    backbone = SmallMobileNet((width, 3 * width // 2, 5 * width // 2), 8 * width)
    return _classifier(backbone, None, 8 * width, data)


def small_vit(width: int, data: Data) -> nn.Module:
    """Four blocks of attention with four heads, of three times ``width``, on patches of 4x4."""
    backbone = SmallViT(3 * width, 4, 4, (data.size // 4) ** 2)
    return _classifier(backbone, None, 3 * width, data)


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on.

    Attributes:
        epochs: Of training before pruning: of the plain network, of the one with a penalty on
            its scales, of the supernet.
        finetune: Epochs of finetuning.
        lr: The highest learning rate before pruning.
        finetune_lr: The highest one of finetuning.
        width: Channels of the networks' first stages.
        targets: Shares of the multiply-adds, descending.
        images: How many images of each part of the data are used; None for all.
        optimizer: ``'SGD'`` with momentum, or ``'AdamW'``.
        measures: Which accuracies, some of ``MEASURES``.
        with_peer: Whether Torch-Pruning is there to be compared with.
    """

    epochs: float = 15
    finetune: float = 2
    lr: float = 0.1
    finetune_lr: float = 0.02
    width: int = 16
    targets: tuple[float, ...] = (0.5, 0.25)
    images: int | None = None
    optimizer: str = 'SGD'
    measures: tuple[str, ...] = OF_DIGITS
    with_peer: bool = True

    def of(self, program: str) -> tuple[str, ...]:
        """The accuracies that are measured of a program's networks; nobody compensates others'."""
        return OF_DIGITS if program == THEIRS else self.measures


@dataclass(frozen=True)
class Recipe:
    """A network, and how it is trained.

    Attributes:
        title: In tables.
        data: A name of ``DATA``.
        build: From a width and the data.
        settings: What its numbers depend on.
    """

    title: str
    data: str
    build: Callable[[int, Data], nn.Module]
    settings: Settings = Settings()


OF_MNIST = Settings(epochs=6, targets=(0.5, 0.25, 0.15), measures=tuple(MEASURES))
OF_VIT = replace(OF_MNIST, epochs=10, lr=2e-3, finetune_lr=5e-4, optimizer='AdamW')
NETWORKS = {
    'resnet': Recipe('ResNet', 'digits', small_resnet),
    'vgg': Recipe('VGG', 'digits', small_vgg),
    'mnist-resnet': Recipe('ResNet', 'mnist', small_resnet, OF_MNIST),
    'mnist-mobilenet': Recipe('MobileNetV2-like', 'mnist', small_mobilenet, OF_MNIST),
    'mnist-vit': Recipe('ViT', 'mnist', small_vit, OF_VIT),
}
TITLES = {name: recipe.title for name, recipe in NETWORKS.items()}


def settings_of(name: str, with_peer: bool, quick: bool = False) -> Settings:
    """What the numbers of a network depend on."""
    found = replace(NETWORKS[name].settings, with_peer=with_peer)
    return replace(found, epochs=0.5, finetune=0.5, width=8, images=128) if quick else found


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
    recipe = NETWORKS[name]
    network: Any = recipe.build(width, DATA[recipe.data])
    with quiet():
        network.init_weights()
    return network


def demo_input(network: nn.Module) -> torch.Tensor:
    """The input that a network is traced with, and its cost is counted for."""
    own: Any = network.data_preprocessor
    return torch.rand(own.image_shape, generator=torch.Generator().manual_seed(0))


def count_macs(network: nn.Module) -> int:
    """Multiply-adds for one image, seen by torch in a forward pass.

    One count for all that is compared, and none of those that pruners go by.
    """
    with modes_kept(network):
        return counted_run(network.eval(), demo_input(network))[1]
