"""Backbones that are small enough to be trained by the dozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


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


class SmallMobileNet(nn.Module):
    """A convolution of stride 2, two inverted residuals of each width, and a last convolution.

    After Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018. The last
    width has half the size.

    Args:
        widths: Of the first convolution and of the narrow ends of the others.
        last: Channels of the last convolution.
        expansion: Of the hidden layers.
    """

    def __init__(self, widths: Sequence[int], last: int, expansion: int = 4) -> None:
        super().__init__()
        first, *others = widths
        layers: list[nn.Module] = [_conv(1, first, 3, 2)]
        before = first
        for number, width in enumerate(others):
            stride = 2 if number == len(others) - 1 else 1
            layers += [
                InvertedResidual(before, width, expansion, stride),
                InvertedResidual(width, width, expansion, 1),
            ]
            before = width
        self.layers = nn.Sequential(*layers, _conv(before, last, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """(N, 1, H, W) -> means over the last feature map, (N, C)."""
        return (self.layers(x).mean((2, 3)),)


class InvertedResidual(nn.Module):
    """Wide in the middle, where a depthwise convolution is; a sum with its input if that fits."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = _conv(inputs, hidden, 1)
        self.depthwise = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.project = _conv(hidden, outputs, 1)[:2]
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class SmallViT(nn.Module):
    """Blocks of attention and of two linear layers on patches of 4x4, and the mean over tokens.

    After Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, without a token of its own
    for the class.

    Args:
        width: Channels of a token.
        depth: Blocks.
        heads: Of each block.
        tokens: Patches of an image.
    """

    def __init__(self, width: int, depth: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """(N, 1, H, W) -> the mean of all tokens, (N, C)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return (self.norm(self.blocks(tokens)).mean(1),)


class AttentionBlock(nn.Module):
    """Attention and two linear layers, each behind a norm and in a sum with what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, C) -> (N, T, C)."""
        count, tokens, _ = x.shape
        own = self.qkv(self.norm1(x)).view(count, tokens, 3, self.heads, -1)
        query, key, value = own.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, C / heads)
        seen = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        x = x + self.project((seen @ value).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
