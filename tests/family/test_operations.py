"""Operations of mmcv and mmdet in small networks: cut, exact in slices, masks and as deployed."""

import pytest
import torch
from family_models import build_model
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    MultiScaleDeformableAttention,
)
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.utils.misc import sigmoid_geometric_mean
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.testing import check_network
from mmprune.trace import Road

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
BOXES = torch.tensor([[0, 1, 2, 12, 10], [1, 4, 4, 9, 14], [1, 0, 0, 3, 3]]).double()


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Between(nn.Module):
    """A module between two convolutions and norms."""

    def __init__(self, middle, channels=8):
        super().__init__()
        self.first = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.middle, self.norm = middle, nn.BatchNorm2d(channels)
        self.last = nn.Linear(channels, 4)

    def forward(self, images):
        return self.last(self.norm(self.middle(self.first(images))).relu().mean((2, 3)))


def packed(kind, **options):
    return lambda: Between(kind(8, 6, 3, padding=1, **options), 6)


@pytest.mark.parametrize(
    ('network', 'channels'),
    [
        (packed(DeformConv2dPack), 8),
        (packed(DeformConv2dPack, deform_groups=2), 8),
        (packed(ModulatedDeformConv2dPack), 8),
        # Both groups lose the same channels.
        (packed(ModulatedDeformConv2dPack, deform_groups=2, groups=2), 4),
    ],
    ids=['v1', 'v1 of two blocks', 'v2', 'v2 in groups'],
)
# Its gradients are those of float32.
def test_deformable_convolutions(network, channels):
    report = check_network(network(), IMAGES, trains=False, keeps_at_most=0.75)
    assert report.groups == {'first.0': channels, 'middle': 6}


class Regions(nn.Module):
    """Two levels of features, of which a linear layer reads boxes."""

    def __init__(self, layer):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 8, stride=2)
        self.extractor = SingleRoIExtractor(dict(layer), 8, [1, 2], finest_scale=4)
        self.fc, self.head = nn.Linear(8 * 4, 6), nn.Linear(6, 4)

    def forward(self, images):
        a = self.a(images)
        regions = self.extractor([a, self.b(a)], BOXES.to(images))
        return self.head(self.fc(regions.flatten(1)).relu())


def test_regions_of_levels():
    report = check_network(
        Regions(dict(type='RoIAlign', output_size=2)), IMAGES, keeps_at_most=0.45
    )
    assert report.groups == {'a': 8, 'fc': 6}


class GeometricMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = conv(8, 8), conv(8, 8)

    def forward(self, x):
        return sigmoid_geometric_mean(self.one(x), self.other(x))


def test_a_geometric_mean_of_two_branches():
    report = check_network(Between(GeometricMean()), IMAGES, keeps_at_most=0.45)
    assert report.groups == {'first.0': 8, 'middle.one': 8}


class Attention(nn.Module):
    """Deformable attention to an image, whose places have fixed positions."""

    def __init__(self):
        super().__init__()
        self.positions = SinePositionalEncoding(8, normalize=True)
        self.attention = MultiScaleDeformableAttention(16, 2, 1, 2, dropout=0.0, batch_first=True)
        self.before = nn.Conv2d(8, 16, 1)

    def forward(self, x):
        x = self.before(x)
        n, _, h, w = x.shape
        fixed = self.positions(x.new_zeros((n, h, w)).bool()).to(x)
        x, fixed = (own.flatten(2).transpose(1, 2) for own in (x, fixed))
        places = torch.rand(n, h * w, 1, 2, generator=torch.Generator().manual_seed(0))
        x = self.attention(
            x, value=x, query_pos=fixed, reference_points=places.to(x),
            spatial_shapes=torch.tensor([[h, w]]), level_start_index=torch.tensor([0]),
        )  # fmt: skip
        return x.transpose(1, 2).unflatten(2, (h, w))


def test_deformable_attention_with_fixed_positions():
    report = check_network(
        Between(Attention(), 16), IMAGES[:, :, :8, :8], trains=False, keeps_at_most=0.45
    )
    assert report.groups['middle.before'] == 16
    assert report.groups['middle.attention.value_proj'] == 16


# -- whole networks ---------------------------------------------------------------------


def samples(images):
    """What detectors are told of images, with a box in each of them."""
    size = tuple(images.shape[2:])
    made = []
    for _ in images:
        sample = DetDataSample(
            metainfo=dict(img_shape=size, batch_input_shape=size, ori_shape=size, pad_shape=size)
        )
        boxes, labels = torch.tensor([[8.0, 8, 50, 44]]), torch.tensor([1])
        sample.gt_instances = InstanceData(bboxes=boxes.to(images), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=boxes[:0].to(images), labels=labels[:0])
        made.append(sample)
    return made


RESNET = dict(depth=18, base_channels=16, init_cfg=None, norm_cfg=dict(type='BN'))
DETR = dict(in_channels=[128], out_channels=32)


def options(**parts):
    return {f'model.{part}': value for part, value in parts.items()}


def backbone(**changes):
    return {f'model.backbone.{name}': value for name, value in dict(RESNET, **changes).items()}


NETWORKS = {
    'deformed convolutions': (
        'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
        {
            **backbone(),
            'model.neck.in_channels': 128,
            'model.neck.num_deconv_filters': (64, 32, 16),
            'model.bbox_head.in_channels': 16,
            'model.bbox_head.feat_channels': 16,
        },
    ),
    'two stages': (
        '_base_/models/faster-rcnn_r50_fpn.py',
        {
            **backbone(),
            'model.neck.in_channels': [16, 32, 64, 128],
            'model.neck.out_channels': 16,
            'model.rpn_head.in_channels': 16,
            'model.rpn_head.feat_channels': 16,
            'model.roi_head.bbox_roi_extractor.out_channels': 16,
            'model.roi_head.bbox_head.in_channels': 16,
            'model.roi_head.bbox_head.fc_out_channels': 32,
            'model.train_cfg.rpn_proposal.max_per_img': 50,
            'model.test_cfg.rpn.max_per_img': 20,
        },
    ),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_detectors_on_the_road_of_tensors_and_on_that_of_the_loss(name):
    path, changes = NETWORKS[name]
    torch.manual_seed(0)
    model = build_model('mmdet', path, **changes)
    images = torch.randn(2, 3, 64, 64)
    pruner = PRUNERS.build(
        dict(type='RatioPruner', ratios=[0.5], importance=dict(type='RandomImportance', seed=0))
    )
    roads = [
        Road('eval', lambda model: model(images, samples(images), mode='tensor')),
        Road('loss', lambda model: model(images, samples(images), mode='loss'), training=True),
    ]
    full = sum(parameter.numel() for parameter in model.parameters())
    pruner.prepare_from_supernet(model, roads)
    pruner.set_min_channel()
    verified = pruner.verify_subnet()
    assert verified.ok, verified
    assert verified.roads == ('eval', 'loss'), verified
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    kept = sum(parameter.numel() for parameter in small.parameters()) / full
    assert kept < 0.45, pruner.report()
