"""Bright circles, squares and triangles on dark noise, with boxes, outlines and maps of classes.

A small data set for trying detectors and segmenters out, made in a second:

    python -m mmprune.datasets.shapes data/shapes
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmprune.dependencies import require
from mmprune.fileio import write_text

CLASSES = ('circle', 'square', 'triangle')
SIZES = {'train': 480, 'val': 80}
SIDE = 64
"""Height and width of the images, in which each quarter has room for one shape."""
_CORNERS = {'circle': 24, 'square': 4, 'triangle': 3}
_SMALLEST, _LARGEST, _EMPTY = 9, 15, 0.3


def write_shapes(root: str | os.PathLike[str], sizes: Mapping[str, int] = SIZES) -> None:
    """Write images, boxes and outlines in COCO's format, and a map of classes for each image.

    Below ``root`` every part, such as ``train``, gets ``images/train/*.png``,
    ``annotations/train.json`` and ``maps/train/*.png``, in which 0 is background and 1, 2, 3 are
    ``CLASSES``. The same is drawn at every call.

    Args:
        root: The folder.
        sizes: Images of each part.
    """
    cv2 = require('cv2', 'mmprune.datasets.shapes')
    for number, (part, size) in enumerate(sizes.items()):
        # Its numbers are the same in every version of numpy.
        random = np.random.RandomState(number)
        folders = [Path(root) / kind / part for kind in ('images', 'maps')]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for image_id in range(size):
            background = random.randint(0, 100, 3)
            image = background + random.normal(0, 20, (SIDE, SIDE, 3))
            classes = np.zeros((SIDE, SIDE), np.uint8)
            for label, outline in _outlines(random):
                colour = random.randint(156, 256, 3)
                mask = cv2.fillPoly(np.zeros_like(classes), [outline], 1).astype(bool)
                image[mask] = colour + random.normal(0, 20, (int(mask.sum()), 3))
                classes[mask] = label + 1
                annotations.append(
                    _annotation(len(annotations) + 1, image_id, label, mask, outline)
                )
            name = f'{image_id:04}.png'
            for folder, pixels in zip(folders, (image.clip(0, 255), classes), strict=True):
                cv2.imwrite(str(folder / name), pixels.astype(np.uint8))
            images.append(dict(id=image_id, file_name=name, width=SIDE, height=SIDE))
        categories = [dict(id=label + 1, name=name) for label, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        write_text(json.dumps(content), Path(root) / 'annotations' / f'{part}.json')


def _outlines(random: np.random.RandomState) -> list[tuple[int, NDArray[np.int32]]]:
    """The shapes of one image: label and corners (N, 2), one in some of its quarters."""
    found = []
    for quarter in range(4):
        if quarter and random.uniform() < _EMPTY:
            continue
        label, radius = random.randint(len(CLASSES)), random.uniform(_SMALLEST, _LARGEST)
        corners = _CORNERS[CLASSES[label]]
        angles = 2 * np.pi * (np.arange(corners) / corners + random.uniform())
        middle = random.uniform(radius, SIDE / 2 - 1 - radius, 2)
        middle += np.array([quarter % 2, quarter // 2]) * SIDE / 2
        points = middle + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        found.append((label, points.round().astype(np.int32)))
    return found


def _annotation(
    number: int, image_id: int, label: int, mask: NDArray[np.bool_], outline: NDArray[np.int32]
) -> dict[str, object]:
    low, high = outline.min(0), outline.max(0) + 1
    return dict(
        id=number,
        image_id=image_id,
        category_id=label + 1,
        bbox=[*map(int, low), *map(int, high - low)],
        area=int(mask.sum()),
        segmentation=[outline.ravel().tolist()],
        iscrowd=0,
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('root', help='folder to write to, such as data/shapes')
    write_shapes(parser.parse_args().root)
