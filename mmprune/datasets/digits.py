"""Handwritten digits that come with scikit-learn: real images, and nothing to download."""

from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from numpy.typing import NDArray

from mmprune.dependencies import require
from mmprune.errors import InputError
from mmprune.registry import DATASETS

# Images of each class in the two smaller parts; the rest, 120 to 129 a class, is for training.
PER_CLASS = {'test': 36, 'val': 18}
SIZES = {'train': 1257, 'val': 180, 'test': 360}
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
class Digits(BaseDataset):
    """The 1,797 8x8 grey images of scikit-learn's ``load_digits``.

    They are the test part of the UCI data set "Optical Recognition of
    Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998). The split is fixed
    and stratified: 1,257 images to train on, 180 to validate and to search
    with, 360 to test. The same 13 writers occur in all three parts, so
    accuracies here say nothing about writers not seen.

    A sample is what the pipelines of mmcls and mmpretrain start from: ``img``, a
    uint8 array of shape (8, 8) from 0 to 255; ``gt_label``; ``img_shape`` and
    ``ori_shape`` (height, width). How large the images become is up to the pipeline
    (``dict(type='Resize', scale=16)``).

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        pipeline: Transforms, ending with ``PackClsInputs`` of mmcls or ``PackInputs`` of
            mmpretrain, say.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as
            ``indices`` to use only the first few images.

    Raises:
        ValueError: If there is no such split.
        InputError: If scikit-learn is not installed.
    """

    METAINFO = {'classes': tuple('0123456789')}  # noqa: RUF012  (mmengine's protocol)

    def __init__(self, split: str, pipeline: Any = (), **kwargs: Any) -> None:
        if split not in SIZES:
            raise InputError(f'Digits has the splits {", ".join(SIZES)}, but not {split!r}.')
        self.split = split
        kwargs.setdefault('test_mode', split != 'train')
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the samples of the split, in the order of the data set."""
        pixels, labels = require('sklearn.datasets', 'mmprune.Digits').load_digits(return_X_y=True)
        images = np.rint(pixels.reshape(-1, 8, 8) * (255 / _WHITEST)).astype(np.uint8)
        return [
            {
                'img': images[index],
                'gt_label': int(labels[index]),
                'img_shape': (8, 8),
                'ori_shape': (8, 8),
            }
            for index in split_indices(labels)[self.split]
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image, for wrappers that balance classes."""
        return [int(self.get_data_info(idx)['gt_label'])]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(split={self.split!r}), {len(self)} images'
