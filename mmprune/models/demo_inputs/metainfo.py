"""What samples of several code bases have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn


def image_metainfo(images: torch.Tensor) -> dict[str, Any]:
    """What a training pipeline and a preprocessor note about an image that fills its batch."""
    size = tuple(int(length) for length in images.shape[-2:])
    return dict(
        img_id=0,
        img_path='',
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=[0, size[0], 0, size[1]],
    )


def classes_of(model: nn.Module, but: Iterable[str] = ()) -> int:
    """The smallest number of classes that a part of a model is made for; 1 if none says it.

    Args:
        model: The model.
        but: Parts that do not count.
    """
    passed = tuple(but)
    counts = [
        module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int) and not name.startswith(passed)
    ]
    return max(1, min(counts, default=1))


def random_boxes(images: torch.Tensor, count: int, seed: int) -> np.ndarray:
    """Boxes inside of an image, (count, 4), corners in pixels, none of them flat."""
    random = np.random.default_rng(seed)
    height, width = (int(length) for length in images.shape[-2:])
    low, high = random.uniform(0.0, 0.4, (count, 2)), random.uniform(0.6, 1.0, (count, 2))
    return np.concatenate([low, high], axis=1) * np.array([width, height, width, height])
