"""Models of the family, as its configs have them but for a few channels, on small images."""

from typing import Any

from family_models import build_model
from torch import nn

from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.registry import PRUNERS
from mmprune.testing import randomise
from mmprune.trace import Road

RESNET = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 4,
    'model.backbone.init_cfg': None,
}
FPN = {**RESNET, 'model.neck.in_channels': [4, 8, 16, 32], 'model.neck.out_channels': 8}
RPN = {**FPN, 'model.rpn_head.in_channels': 8, 'model.rpn_head.feat_channels': 8}
ROI = {
    **RPN,
    'model.roi_head.bbox_roi_extractor.out_channels': 8,
    'model.roi_head.bbox_head.in_channels': 8,
    'model.roi_head.bbox_head.fc_out_channels': 16,
}
YOLOX = {
    f'model.{part}.widen_factor': 0.125 for part in ('backbone', 'neck', 'bbox_head.head_module')
}
DYNAMIC = dict(type='DynamicConv', in_channels=8, feat_channels=4, out_channels=8)
STAGE = dict(
    type='DIIHead',
    in_channels=8,
    num_heads=2,
    feedforward_channels=16,
    dynamic_conv_cfg=DYNAMIC,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False),
)
DETR = {'model.encoder.num_layers': 1, 'model.decoder.num_layers': 1, 'model.num_queries': 5}
TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    'Faster R-CNN': ('mmdet', '_base_/models/faster-rcnn_r50_fpn.py', ROI),
    'Mask R-CNN': (
        'mmdet',
        '_base_/models/mask-rcnn_r50_fpn.py',
        {
            **ROI,
            'model.roi_head.mask_roi_extractor.out_channels': 8,
            'model.roi_head.mask_head.in_channels': 8,
            'model.roi_head.mask_head.conv_out_channels': 8,
        },
    ),
    'Sparse R-CNN': (
        'mmdet',
        'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
        {
            **FPN,
            'model.rpn_head.num_proposals': 5,
            'model.rpn_head.proposal_feature_channel': 8,
            'model.roi_head.num_stages': 1,
            'model.roi_head.stage_loss_weights': [1],
            'model.roi_head.bbox_roi_extractor.out_channels': 8,
            'model.roi_head.bbox_head': [STAGE],
        },
    ),
    'RetinaNet': (
        'mmdet',
        '_base_/models/retinanet_r50_fpn.py',
        {**FPN, 'model.bbox_head.in_channels': 8, 'model.bbox_head.feat_channels': 8},
    ),
    'YOLACT': (
        'mmdet',
        'yolact/yolact_r50_1xb8-55e_coco.py',
        {
            **FPN,
            'model.bbox_head.in_channels': 8,
            'model.bbox_head.feat_channels': 8,
            'model.mask_head.in_channels': 8,
        },
    ),
    'DETR': (
        'mmdet',
        'detr/detr_r50_8xb2-150e_coco.py',
        {**RESNET, **DETR, 'model.neck.in_channels': [32]},
    ),
    'Deformable DETR': (
        'mmdet',
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        {**RESNET, **DETR, 'model.neck.in_channels': [8, 16, 32]},
    ),
    'PSPNet': (
        'mmseg',
        '_base_/models/pspnet_r50-d8.py',
        {
            **RESNET,
            'model.pretrained': None,
            'model.decode_head.in_channels': 32,
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': 16,
            'model.auxiliary_head.channels': 8,
        },
    ),
    'PointRend': (
        'mmseg',
        '_base_/models/pointrend_r50.py',
        {**RESNET, 'model.pretrained': None, 'model.neck.in_channels': [4, 8, 16, 32]},
    ),
    'heatmaps': (
        'mmpose',
        'body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
        {**RESNET, 'model.head.in_channels': 32, 'model.head.deconv_out_channels': [8, 8, 8]},
    ),
    'SimCC': (
        'mmpose',
        'body_2d_keypoint/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py',
        {**RESNET, 'model.head.in_channels': 32, 'model.head.deconv_out_channels': [8, 8, 8]},
    ),
    'RTMPose': (
        'mmpose',
        'body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
        {
            'model.backbone.widen_factor': 0.125,
            'model.backbone.init_cfg': None,
            'model.head.in_channels': 128,
            'model.head.gau_cfg.hidden_dims': 32,
        },
    ),
    'YOLOX-Pose': (
        'mmpose',
        'body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py',
        {
            'model.backbone.widen_factor': 0.125,
            'model.backbone.init_cfg': None,
            'model.neck.in_channels': [32, 64, 128],
            'model.neck.out_channels': 16,
            'model.head.head_module_cfg.widen_factor': 0.0625,
        },
    ),
    'YOLOX-Pose of mmyolo': (
        'mmyolo',
        'yolox/pose/yolox-pose_tiny_8xb32-300e-rtmdet-hyp_coco.py',
        YOLOX,
    ),
    'YOLOv6': (
        'mmyolo',
        'yolov6/yolov6_n_syncbn_fast_8xb32-400e_coco.py',
        YOLOX,
    ),
    'YOLOv8': (
        'mmyolo',
        'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
        YOLOX,
    ),
}
"""Name -> package, config, options."""


def tiny(name: str) -> nn.Module:
    """One of ``TINY``, with random weights, in eval mode."""
    package, path, options = TINY[name]
    return build_model(package, path, **options)


def shape_of(name: str) -> tuple[int, ...] | None:
    """The shape of its images; None for that of a codec."""
    return None if TINY[name][0] == 'mmpose' else (1, 3, 64, 64)


def prepared(name: str, **options: Any) -> tuple[nn.Module, Any, list[Road]]:
    """It in float64 with random numbers, a pruner of it, and its roads."""
    model = randomise(tiny(name).double()).eval()
    roads = ConfiguredInput.of(model, options, shape_of(name)).roads(model)
    pruner = PRUNERS.build(dict(_scope_='mmprune', type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, roads)
    return model, pruner, roads
