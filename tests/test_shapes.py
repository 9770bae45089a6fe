"""Drawn shapes: boxes, outlines and maps of classes agree, and are the same everywhere."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmprune.datasets.shapes import CLASSES, write_shapes


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, {'train': 6, 'val': 2})
    return root


def test_boxes_and_outlines_are_where_the_map_has_their_class(shapes: Path) -> None:
    content = json.loads((shapes / 'annotations/train.json').read_text(encoding='utf-8'))
    assert [each['name'] for each in content['categories']] == list(CLASSES)
    assert len(content['images']) == 6
    for image in content['images']:
        found = cv2.imread(str(shapes / 'maps/train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        left = np.zeros_like(found)
        for each in content['annotations']:
            if each['image_id'] == image['id']:
                x, y, width, height = each['bbox']
                outline = np.array(each['segmentation'][0]).reshape(-1, 2)
                assert outline.min(0).tolist() == [x, y]
                inside = found[y : y + height, x : x + width] == each['category_id']
                assert inside.sum() == each['area']
                assert inside.any(0).all(), 'a box is as narrow as its shape'
                assert inside.any(1).all()
                left[y : y + height, x : x + width][inside] = each['category_id']
        assert (left == found).all(), 'there is a class outside of all boxes'
        assert len(np.unique(found)) > 1


def test_shapes_are_the_same_at_every_call_and_others_in_every_part(
    shapes: Path, tmp_path: Path
) -> None:
    write_shapes(tmp_path, {'train': 6, 'val': 2})
    files = [path.relative_to(shapes) for path in shapes.rglob('*.*')]
    assert len(files) == 2 + 2 * 8
    for file in files:
        assert (tmp_path / file).read_bytes() == (shapes / file).read_bytes()
    first, other = (shapes / 'images' / part / '0000.png' for part in ('train', 'val'))
    assert first.read_bytes() != other.read_bytes()
