"""Networks of the family on all of their roads: in the supernet as deployed, and in training."""

import pytest
import torch
from family_models import build_model

from mmprune.testing import check_network

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
RESNET = {f'model.backbone.{option}_channels': 8 for option in ('base', 'stem')}
RETINANET = {
    **RESNET,
    'model.backbone.depth': 18,
    'model.backbone.init_cfg': None,
    'model.neck.in_channels': [8, 16, 32, 64],
    'model.neck.out_channels': 16,
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
}
PSPNET = {
    **RESNET,
    'model.backbone.depth': 18,
    'model.pretrained': None,
    'model.decode_head.in_channels': 64,
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': 32,
    'model.auxiliary_head.channels': 8,
}
YOLOX = {
    f'model.{part}.widen_factor': 0.125 for part in ('backbone', 'neck', 'bbox_head.head_module')
}


@pytest.mark.parametrize(
    ('package', 'path', 'options'),
    [
        ('mmdet', '_base_/models/retinanet_r50_fpn.py', RETINANET),
        ('mmseg', '_base_/models/pspnet_r50-d8.py', PSPNET),
        ('mmyolo', 'yolox/yolox_tiny_fast_8xb8-300e_coco.py', YOLOX),
    ],
)
def test_an_image_gives_the_same_in_the_supernet_and_deployed(
    package: str, path: str, options: dict
) -> None:
    report = check_network(build_model(package, path, **options), IMAGE, subnets=1)
    assert report.kept < 0.6, report
