"""MobileNet (v1), which mmcls does not have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import nn

from mmprune.registry import MODELS

CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
INIT = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm']),
]
STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def _layers(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution, its norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )  # fmt: skip


@MODELS.register_module()
class MobileNetV1(BaseModule):
    """The backbone of MobileNet: a convolution, then depthwise-separable blocks.

    Source: Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile
    Vision Applications", Table 1.

    Args:
        channels: Width of the stem and of the pointwise convolution of every block.
        strides: Stride of the stem and of the depthwise convolution of every block.
        in_channels: Channels of the image.
        init_cfg: mmengine's; Kaiming's for convolutions if not given.
    """

    def __init__(
        self,
        channels: Sequence[int] = CHANNELS,
        strides: Sequence[int] = STRIDES,
        in_channels: int = 3,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT)
        if len(channels) != len(strides):
            raise ValueError(f'{len(channels)} channels, but {len(strides)} strides')
        self.stem = _layers(in_channels, channels[0], 3, strides[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    depthwise=_layers(before, before, 3, stride, groups=before),
                    pointwise=_layers(before, after, 1),
                )
            )
            for before, after, stride in zip(channels, channels[1:], strides[1:], strict=False)
        )

    def forward(self, data: torch.Tensor) -> tuple[torch.Tensor]:
        """(N, 3, H, W) -> a tuple of one feature map, as mmcls necks take it."""
        data = self.stem(data)
        for block in self.blocks:
            data = block(data)
        return (data,)
