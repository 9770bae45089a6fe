"""Hooks and constructors of optimizers of the family, where the model is an AutoSlim."""

from types import SimpleNamespace

import pytest
from family_models import build_model, config_of
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmprune.models import AutoSlim

YOLOX = {
    'model.backbone.widen_factor': 0.125,
    'model.neck.in_channels': [32, 64, 128],
    'model.neck.out_channels': 32,
    'model.bbox_head.in_channels': 32,
    'model.bbox_head.feat_channels': 16,
}
CONVNEXT = {
    'model.backbone.arch': dict(_delete_=True, depths=[1, 1, 1, 1], channels=[8, 8, 16, 16]),
    'model.backbone.init_cfg': None,
    'model.decode_head.in_channels': [8, 8, 16, 16],
    'model.decode_head.channels': 8,
    'model.auxiliary_head.in_channels': 16,
    'model.auxiliary_head.channels': 8,
}
VIT = {
    'model.backbone.arch': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    'model.backbone.init_cfg': None,
    'model.head.in_channels': 16,
    'model.head.deconv_out_channels': (8, 8),
}
PARTS = ('backbone', 'neck', 'bbox_head.head_module')
YOLO = {f'model.{part}.widen_factor': 0.125 for part in PARTS}


def wrapped(model, height=64, width=64):
    pruner = dict(type='RatioPruner', ratios=[0.5, 1.0])
    return AutoSlim(model, pruner, input_shape=(1, 3, height, width))


@pytest.mark.parametrize(
    ('package', 'path', 'attribute'),
    [
        ('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py', 'use_l1'),
        ('mmyolo', 'yolox/yolox_tiny_fast_8xb8-300e_coco.py', 'use_bbox_aux'),
    ],
)
def test_yolox_switches_its_losses(package, path, attribute, monkeypatch):
    options = YOLOX if package == 'mmdet' else YOLO
    model = wrapped(build_model(package, path, **options))
    monkeypatch.setattr(Runner, 'build_dataloader', staticmethod(lambda config: None))
    dataset = SimpleNamespace(update_skip_type_keys=lambda keys: None)
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(
        model=model,
        epoch=1,
        max_epochs=3,
        train_dataloader=loader,
        cfg=SimpleNamespace(train_dataloader=loader),
        train_loop=SimpleNamespace(),
        logger=MMLogger.get_instance('family'),
    )
    hook = HOOKS.build(dict(type=f'{package}.YOLOXModeSwitchHook', num_last_epochs=1))
    assert getattr(model.architecture.bbox_head, attribute) is False
    hook.before_train_epoch(runner)
    assert getattr(model.architecture.bbox_head, attribute) is True


@pytest.mark.parametrize(
    ('package', 'path', 'options', 'shape'),
    [
        (
            'mmseg',
            'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
            CONVNEXT,
            (64, 64),
        ),
        (
            'mmpose',
            'body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-small_8xb64-210e_coco-256x192.py',
            VIT,
            (256, 192),
        ),
        ('mmyolo', 'yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py', YOLO, (64, 64)),
    ],
)
def test_constructors_of_optimizers_see_the_names_of_the_architecture(
    package, path, options, shape
):
    cfg = config_of(package, path)
    model = build_model(package, path, **options)
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)

    def groups(model):
        found = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        return [
            (len(group['params']), group['lr'], group['weight_decay'], group.get('group_name'))
            for group in found
        ]

    expected = groups(model)
    assert len(expected) > 2
    assert groups(wrapped(model, *shape)) == expected
