"""Handwritten digits that come with scikit-learn: real images, and nothing to download."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmprune.datasets.small_images import SmallImages
from mmprune.dependencies import require
from mmprune.registry import DATASETS

# Images of each class in the two smaller parts; the rest, 120 to 129 a class, is for training.
PER_CLASS = {'test': 36, 'val': 18}
SPLIT_SEED = 20210
# Pixels are counts of 0 to 16 set dots in a 4x4 block of the scan.
_WHITEST = 16


def split_indices(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Divide the images into three parts with the same classes in each.

    The split is stored as a seed. ``RandomState`` is used because its stream
    of numbers is the same in every version of numpy, which that of
    ``default_rng`` need not be.

    Args:
        labels: Class of every image, shape (N,).

    Returns:
        Indices of the images in each part, ascending.
    """
    random = np.random.RandomState(SPLIT_SEED)
    parts: dict[str, list[NDArray[np.int64]]] = {'train': [], 'val': [], 'test': []}
    for label in np.unique(labels):
        shuffled = random.permutation(np.flatnonzero(labels == label))
        for split, count in PER_CLASS.items():
            parts[split].append(shuffled[:count])
            shuffled = shuffled[count:]
        parts['train'].append(shuffled)
    return {split: np.sort(np.concatenate(indices)) for split, indices in parts.items()}


@DATASETS.register_module()
class Digits(SmallImages):
    """The 1,797 8x8 grey images of scikit-learn's ``load_digits``.

    They are the test part of the UCI data set "Optical Recognition of
    Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998). The split is fixed
    and stratified: 1,257 images to train on, 180 to validate and to search
    with, 360 to test. The same 13 writers occur in all three parts, so
    accuracies here say nothing about writers not seen.
    """

    SIZES: ClassVar[Mapping[str, int]] = {'train': 1257, 'val': 180, 'test': 360}

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images, (N, 8, 8), and labels, (N,), of the split, in the order of the data set."""
        pixels, labels = require('sklearn.datasets', 'mmprune.Digits').load_digits(return_X_y=True)
        part = split_indices(labels)[self.split]
        images = np.rint(pixels.reshape(-1, 8, 8) * (255 / _WHITEST)).astype(np.uint8)
        return images[part], labels[part]
