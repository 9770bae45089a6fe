"""What data sets of small grey images have in common: all is in memory, and split for good."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from mmengine.dataset import BaseDataset
from numpy.typing import NDArray

from mmprune.errors import InputError


class SmallImages(BaseDataset):
    """Ten classes of grey images in three parts.

    A sample is what the pipelines of mmcls and mmpretrain start from: ``img``, a
    uint8 array of shape (H, W) from 0 to 255; ``gt_label``; ``img_shape`` and
    ``ori_shape`` (height, width). How large the images become is up to the pipeline
    (``dict(type='Resize', scale=16)``).

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        pipeline: Transforms, ending with ``PackClsInputs`` of mmcls or ``PackInputs`` of
            mmpretrain, say.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as
            ``indices`` to use only the first few images.

    Raises:
        InputError: There is no such split, or the package that has the images is not installed.
    """

    METAINFO = {'classes': tuple('0123456789')}  # noqa: RUF012  (mmengine's protocol)
    SIZES: ClassVar[Mapping[str, int]]
    """How many images each split has."""

    def __init__(self, split: str, pipeline: Any = (), **kwargs: Any) -> None:
        if split not in self.SIZES:
            name, splits = type(self).__name__, ', '.join(self.SIZES)
            raise InputError(f'{name} has the splits {splits}, but not {split!r}.')
        self.split = split
        kwargs.setdefault('test_mode', split != 'train')
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    @abstractmethod
    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images, (N, H, W), and labels, (N,), of the split, in order."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the samples of the split, in order."""
        return [
            {
                'img': image,
                'gt_label': int(label),
                'img_shape': image.shape,
                'ori_shape': image.shape,
            }
            for image, label in zip(*self.arrays(), strict=True)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of an image, for wrappers that balance classes."""
        return [int(self.get_data_info(idx)['gt_label'])]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(split={self.split!r}), {len(self)} images'
