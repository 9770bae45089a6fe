"""Networks of the family on the road that an image takes: in the supernet as deployed."""

import pytest
import torch
from family_models import build_model

from mmprune.testing import check_network

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ('package', 'path'),
    [
        ('mmdet', '_base_/models/retinanet_r50_fpn.py'),
        ('mmseg', '_base_/models/pspnet_r50-d8.py'),
        ('mmyolo', 'yolox/yolox_tiny_fast_8xb8-300e_coco.py'),
    ],
)
def test_an_image_gives_the_same_in_the_supernet_and_deployed(package: str, path: str) -> None:
    report = check_network(build_model(package, path), IMAGE, subnets=1)
    assert report.kept < 0.6, report
