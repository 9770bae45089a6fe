"""YOLOv5, release 6.0: a detector with three scales, as an example of a network to slim.

The layers are numbered as in the original (``model.0`` to ``model.24``), so that lists of widths
of slimming runs, which name layers like ``model.6.m.1.cv2.bn``, can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import nn

from mmprune.errors import InputError
from mmprune.registry import MODELS

ANCHORS = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)
"""Width and height of the anchors of each scale, in pixels of the image."""
STRIDES = (8, 16, 32)
"""Pixels of the image per cell of each scale."""


class Conv(nn.Module):
    """Convolution, batch norm, SiLU; the size stays if the stride is 1.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Size of the kernel.
        stride: Step of the kernel.
        padding: Zeros on every side; by default half of the kernel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, added to what came in if ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 1)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Two branches of half the width, one with bottlenecks, joined by a third convolution."""

    def __init__(self, inputs: int, outputs: int, repeats: int, shortcut: bool = True) -> None:
        super().__init__()
        hidden = outputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(inputs, hidden)
        self.cv3 = Conv(2 * hidden, outputs)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(repeats)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], dim=1))


class SPPF(nn.Module):
    """Maxima over 5x5, 9x9 and 13x13 places beside the values themselves."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(4 * hidden, outputs)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        found = [self.cv1(x)]
        for _ in range(3):  # a pool of a pool looks twice as far
            found.append(self.m(found[-1]))
        return self.cv2(torch.cat(found, dim=1))


class Concat(nn.Module):
    """Channels of several maps, one after the other."""

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """[(N, C1, H, W), (N, C2, H, W)] -> (N, C1 + C2, H, W)."""
        return torch.cat(list(maps), dim=1)


class Detect(nn.Module):
    """A 1x1 convolution per scale: 4 numbers of a box, objectness and classes per anchor."""

    def __init__(self, num_classes: int, anchors: Sequence[Sequence[int]], inputs: Sequence[int]):
        super().__init__()
        self.numbers = 5 + num_classes
        self.num_anchors = len(anchors[0]) // 2
        outputs = self.numbers * self.num_anchors
        self.m = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in inputs)
        self.anchors: torch.Tensor
        sizes = torch.tensor(anchors, dtype=torch.float32).view(len(anchors), -1, 2)
        self.register_buffer('anchors', sizes, persistent=False)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps of the scales -> raw predictions (N, anchors, H, W, 5 + classes) of each."""
        found = []
        for convolution, features in zip(self.m, maps, strict=True):
            raw = convolution(features)
            shape = (raw.shape[0], self.num_anchors, self.numbers, *raw.shape[2:])
            found.append(raw.view(shape).permute(0, 1, 3, 4, 2))
        return found


@MODELS.register_module()
class YOLOv5(BaseModule):
    """YOLOv5 of release 6.0: convolutions, C3 blocks, SPPF, PAN neck, detection at three scales.

    Jocher et al., "ultralytics/yolov5: v6.0", 2021, doi 10.5281/zenodo.5563715. The neck is that of
    Liu, Qi, Qin, Shi, Jia, "Path Aggregation Network for Instance Segmentation", 2018,
    section 3.1. It has no loss: what it is for is to be pruned, deployed and compared.

    Args:
        num_classes: Classes of objects.
        depth: Factor of the numbers of bottlenecks; 0.33 in YOLOv5s.
        width: Factor of the numbers of channels; 0.5 in YOLOv5s.
        anchors: Three scales of width and height pairs, in pixels.
        init_cfg: See mmengine's ``BaseModule``.

    Raises:
        InputError: An option makes no sense.
    """

    def __init__(
        self,
        num_classes: int = 80,
        depth: float = 0.33,
        width: float = 0.5,
        anchors: Sequence[Sequence[int]] = ANCHORS,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        pairs = {len(scale) for scale in anchors}
        if len(anchors) != len(STRIDES) or len(pairs) != 1 or pairs.pop() % 2:
            raise InputError(
                f'YOLOv5: anchors must be {len(STRIDES)} lists of equally many pairs of width and '
                f'height, found {len(anchors)} lists of {[len(scale) for scale in anchors]} numbers'
            )
        if num_classes < 1 or depth <= 0 or width <= 0:
            raise InputError(
                'YOLOv5 needs at least 1 class and factors above 0, got '
                f'num_classes={num_classes}, depth={depth:g}, width={width:g}'
            )
        w1, w2, w3, w4, w5 = (
            max(8, int(-(-n * width // 8) * 8)) for n in (64, 128, 256, 512, 1024)
        )
        few, some, many = (max(1, round(n * depth)) for n in (3, 6, 9))
        backbone = [
            *(Conv(3, w1, 6, 2, 2), Conv(w1, w2, 3, 2), C3(w2, w2, few)),
            *(Conv(w2, w3, 3, 2), C3(w3, w3, some)),
            *(Conv(w3, w4, 3, 2), C3(w4, w4, many)),
            *(Conv(w4, w5, 3, 2), C3(w5, w5, few), SPPF(w5, w5)),
        ]
        down = [
            *(Conv(w5, w4), nn.Upsample(scale_factor=2), Concat(), C3(2 * w4, w4, few, False)),
            *(Conv(w4, w3), nn.Upsample(scale_factor=2), Concat(), C3(2 * w3, w3, few, False)),
        ]
        up = [
            *(Conv(w3, w3, 3, 2), Concat(), C3(2 * w3, w4, few, False)),
            *(Conv(w4, w4, 3, 2), Concat(), C3(2 * w4, w5, few, False)),
        ]
        detect = Detect(num_classes, anchors, (w3, w4, w5))
        self.model = nn.Sequential(*backbone, *down, *up, detect)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Raw predictions at strides 8, 16 and 32, each (N, anchors, H, W, 5 + classes).

        Args:
            images: (N, 3, H, W), of sizes that 32 divides.
        """
        # Which maps a joining layer takes: the last one, and that of an earlier layer.
        joined, scales = {12: 6, 16: 4, 19: 14, 22: 10}, (17, 20, 23)
        maps: list[torch.Tensor] = []
        x = images
        *layers, detect = self.model.children()
        for number, layer in enumerate(layers):
            x = layer([x, maps[joined[number]]] if number in joined else x)
            maps.append(x)
        return detect([maps[number] for number in scales])

    def boxes(self, raw: Sequence[torch.Tensor]) -> torch.Tensor:
        """Boxes from raw predictions.

        Args:
            raw: What ``forward`` returns.

        Returns:
            (N, boxes, 5 + classes): centre x and y, width and height in pixels of the image,
            objectness, and the probability of every class.
        """
        found = []
        *_, detect = self.model.children()
        assert isinstance(detect, Detect)
        for values, sizes, stride in zip(raw, detect.anchors, STRIDES, strict=True):
            height, width = values.shape[2:4]
            rows, columns = torch.meshgrid(
                torch.arange(height).to(values), torch.arange(width).to(values), indexing='ij'
            )
            y = values.sigmoid()
            centre = (y[..., :2] * 2 - 0.5 + torch.stack([columns, rows], dim=-1)) * stride
            size = (y[..., 2:4] * 2) ** 2 * sizes[:, None, None]
            found.append(torch.cat([centre, size, y[..., 4:]], dim=-1).flatten(1, 3))
        return torch.cat(found, dim=1)
