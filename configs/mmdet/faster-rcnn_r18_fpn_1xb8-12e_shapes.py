# Faster R-CNN with a ResNet-18 on drawn shapes, from random weights.
#   python -m mmprune.datasets.shapes data/shapes
#   mim train mmdet configs/mmdet/faster-rcnn_r18_fpn_1xb8-12e_shapes.py
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes_12e.py',
]
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=256, num_classes=3),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(max_per_img=200)),
)
default_hooks = dict(checkpoint=dict(interval=12))
