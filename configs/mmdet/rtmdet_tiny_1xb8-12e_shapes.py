# RTMDet-tiny on drawn shapes, from random weights: where the road of docs/detectors.md starts.
#   python -m mmprune.datasets.shapes data/shapes
#   mim train mmdet configs/mmdet/rtmdet_tiny_1xb8-12e_shapes.py
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

# One process needs no statistics of others.
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg, num_classes=3),
)

shapes = dict(data_root='data/shapes/', metainfo=dict(classes=('circle', 'square', 'triangle')))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes,
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/shapes/annotations/val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=30),
    dict(type='CosineAnnealingLR', by_epoch=True, end=12, eta_min=0, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12, val_interval=4, dynamic_intervals=None)
default_hooks = dict(checkpoint=dict(interval=12))
# An average of weights that hardly moves in so few steps would be tested, and there is no mosaic.
custom_hooks = []
