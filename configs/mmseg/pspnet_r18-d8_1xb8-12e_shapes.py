# PSPNet with a ResNet-18 of half the width on drawn shapes, from random weights: where the road
# of docs/segmenters.md starts.
#   python -m mmprune.datasets.shapes data/shapes
#   mim train mmsegmentation configs/mmseg/pspnet_r18-d8_1xb8-12e_shapes.py
_base_ = [
    'mmseg::_base_/models/pspnet_r50-d8.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/datasets/shapes_segmentation.py',
    '../_base_/schedules/shapes_12e.py',
]
# One process needs no statistics of others.
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    pretrained=None,
    backbone=dict(depth=18, stem_channels=32, base_channels=32, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=256, channels=64, num_classes=4, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=4, norm_cfg=norm_cfg),
)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=12),
    logger=dict(type='LoggerHook', interval=10),
)
log_processor = dict(by_epoch=True)
