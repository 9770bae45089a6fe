"""A few images of noise with maps of three classes, and the config of a segmenter's data."""

from pathlib import Path

import cv2
import numpy as np

SEGMENTS = """
data = dict(
    type='BaseSegDataset',
    data_root='{root}',
    data_prefix=dict(img_path='images', seg_map_path='maps'),
    img_suffix='.png',
    metainfo=dict(classes=('sky', 'road', 'car'), palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]]),
    pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')
    ],
)
loader = dict(batch_size=2, num_workers=0, dataset=data)
train_dataloader = dict(**loader, sampler=dict(type='InfiniteSampler'))
"""


def write_images(root: Path) -> None:
    """Write four images of 64 x 64 pixels into ``images``, and their classes into ``maps``."""
    random = np.random.default_rng(0)
    for name, shape, high in (('images', (64, 64, 3), 256), ('maps', (64, 64), 3)):
        (root / name).mkdir()
        for number in range(4):
            image = random.integers(0, high, shape).astype(np.uint8)
            cv2.imwrite(str(root / name / f'{number}.png'), image)
