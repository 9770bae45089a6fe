"""A trained plain detector and segmenter are searched by their own metrics, from a config."""

import json
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from small_data import SEGMENTS, write_images

from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.search import read_candidates

SEARCH = """
search_cfg = dict(
    type='mmprune.GreedySearchLoop', targets=[0.97], max_channel_bins=2, {options}
)
"""
DETECTOR = """
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
custom_imports = dict(imports=['mmdet.datasets', 'mmdet.evaluation', 'mmdet.models'])
default_scope = 'mmdet'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1),
)
data = dict(
    type='CocoDataset',
    ann_file='{root}/boxes.json',
    data_prefix=dict(img='{root}/images/'),
    metainfo=dict(classes=('cat', 'dog')),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
             'scale_factor')),
    ],
)
loader = dict(batch_size=2, num_workers=0, dataset=data)
train_dataloader = dict(**loader, sampler=dict(type='InfiniteSampler'))
val_dataloader = dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='CocoMetric', ann_file='{root}/boxes.json', metric='bbox')
"""
SEGMENTER = (
    """
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'
custom_imports = dict(imports=['mmseg.datasets', 'mmseg.evaluation', 'mmseg.models'])
default_scope = 'mmseg'
norm_cfg = dict(type='BN')
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=64, channels=16, num_classes=3, norm_cfg=norm_cfg),
    auxiliary_head=None,
)
"""
    + SEGMENTS
    + """
val_dataloader = dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""
)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with a box each, and with maps of three classes."""
    root = tmp_path_factory.mktemp('data')
    write_images(root)
    sizes = dict(width=64, height=64)
    box = dict(bbox=[8, 8, 32, 32], area=1024, iscrowd=0)
    content = dict(
        images=[dict(id=n, file_name=f'{n}.png', **sizes) for n in range(4)],
        annotations=[dict(id=n + 1, image_id=n, category_id=n % 2, **box) for n in range(4)],
        categories=[dict(id=0, name='cat'), dict(id=1, name='dog')],
    )
    (root / 'boxes.json').write_text(json.dumps(content))
    return root


def searched(text: str, root: Path, folder: Path, prior: float | None = None, options: str = ''):
    """Write the config and a checkpoint with random weights, and search."""
    folder.mkdir(exist_ok=True)
    config = folder / 'plain.py'
    text = dedent(text).replace('{root}', str(root)) + SEARCH.replace('{options}', options)
    config.write_text(text)
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    network = MODELS.build(cfg.model)
    if prior is not None:
        torch.nn.init.constant_(network.bbox_head.retina_cls.bias, prior)
    torch.save({'state_dict': network.state_dict()}, folder / 'plain.pth')
    results = search_subnet(config, folder / 'plain.pth', folder / 'search')
    return results, read_candidates(folder / 'search')


def test_a_detector_that_detects_nothing_is_searched_to_the_end(root: Path, tmp_path: Path) -> None:
    (result,), history = searched(DETECTOR, root, tmp_path, prior=-20.0)
    assert len(history) > 5
    assert all(each.metric is None and not each.metrics for each in history)
    assert result.metric is None
    files = deploy_subnet(
        tmp_path / 'plain.py', tmp_path / 'plain.pth', result.channel_cfg, tmp_path / 'small'
    )
    assert files.verified.ok


def test_a_detector_is_judged_by_its_boxes(root: Path, tmp_path: Path) -> None:
    _, history = searched(DETECTOR, root, tmp_path, prior=1.0)
    assert all(each.metric == each.metrics['coco/bbox_mAP'] for each in history)


def test_a_segmenter_is_judged_by_its_regions(root: Path, tmp_path: Path) -> None:
    (result,), history = searched(SEGMENTER, root, tmp_path)
    assert all(each.metric == each.metrics['mIoU'] for each in history)
    assert len({each.metric for each in history}) > 1
    assert result.metric in {each.metric for each in history}
