"""Which networks are in the zoo, how much of each must go, and what cannot go from some."""

from __future__ import annotations

import re

PLAIN_BAR, ATTENTION_BAR = 0.40, 0.45
"""Share of the parameters that a network may keep when every group keeps half."""

CONVOLUTIONAL = (
    'resnet18',
    'resnet34',
    'resnet50',
    'resnet50_cifar',
    'resnet34_gem',
    'resnetv1c50',
    'resnetv1d50',
    'wide-resnet50',
    'seresnet50',
    'vgg11',
    'vgg16bn',
    'mobilenet_v2_1x',
    'mobilenet_v3/mobilenet_v3_small_imagenet',
    'mobilenet_v3/mobilenet_v3_large_imagenet',
    'densenet/densenet121',
    'inception_v3',
    'hrnet/hrnet-w18',
    'repvgg-A0_in1k',
    'mobileone/mobileone_s0',
    'efficientnet_b0',
    'efficientnet_em',
    'efficientnet_v2/efficientnetv2_b0',
    'efficientnet_v2/efficientnetv2_s',
    'convmixer/convmixer-768-32',
    'convnext/convnext-tiny',
    'resnext50_32x4d',
    'seresnext50_32x4d',
    'regnet/regnetx_400mf',
)
"""Convolutions, plain, depthwise and grouped, and norms."""

OTHERS = (
    'convnext_v2/atto',
    'poolformer/poolformer_s12',
    'regnet/regnetx_800mf',
    'res2net50-w14-s8',
    'res2net50-w26-s4',
    'resnest50',
    'shufflenet_v1_1x',
    'shufflenet_v2_1x',
    'hornet/hornet-tiny',
    'hornet/hornet-tiny-gf',
    'van/van_tiny',
    'replknet-31B_in1k',
    'repmlp-base_224',
    'mlp_mixer_base_patch16',
    'vit-base-p16',
    'deit3/deit3-small-p16-224',
    't2t-vit-t-14',
    'tnt_s_patch16_224',
    'swin_transformer/tiny_224',
    'twins_pcpvt_base',
    'twins_svt_base',
    'davit/davit-tiny',
    'mvit/mvitv2-tiny',
    'mixmim/mixmim_base',
    'revvit/revvit-small',
    'conformer/tiny-p16',
    'levit-256-p16',
    'efficientformer-l1',
    'edgenext/edgenext-xsmall',
    'mobilevit/mobilevit_xxs',
    'tinyvit/tinyvit-5m',
    'vig/vig_tiny',
    'vig/pyramid_vig_tiny',
)
"""Splits, shuffles, gates, attention of every kind, token mixers and graphs."""

ZOO: dict[str, float] = {
    **dict.fromkeys(CONVOLUTIONAL, PLAIN_BAR),
    **dict.fromkeys(OTHERS, ATTENTION_BAR),
    # Matrices from place to place hold 40.0 of its 68.2 million parameters. Those of the first
    # stage, 19.7 million, cannot go; the others could, were sets of channels removed whole.
    'repmlp-base_224': 0.70,
}
"""Model config of mmcls -> the share of its parameters that may stay at ratio 0.5."""

_PATHS = {
    'mmdet': (
        'retinanet/retinanet_r18_fpn_1x_coco',
        'fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco',
        'atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco',
        'gfl/gfl_r50_fpn_1x_coco',
        'vfnet/vfnet_r50_fpn_1x_coco',
        'tood/tood_r50_fpn_1x_coco',
        'yolof/yolof_r50-c5_8xb8-1x_coco',
        'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
        'yolox/yolox_tiny_8xb8-300e_coco',
        'rtmdet/rtmdet_tiny_8xb32-300e_coco',
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
        'centernet/centernet_r18_8xb16-crop512-140e_coco',
        'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco',
        'solo/solo_r18_fpn_8xb8-lsj-200e_coco',
        'solov2/solov2-light_r18_fpn_ms-3x_coco',
        'yolact/yolact_r50_1xb8-55e_coco',
        'faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
        'mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
        'cascade_rcnn/cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
        'detr/detr_r18_8xb2-500e_coco',
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    ),
    'mmseg': (
        'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
        'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024',
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024',
        'upernet/upernet_r18_4xb2-80k_cityscapes-512x1024',
        'ocrnet/ocrnet_hr18s_4xb2-80k_cityscapes-512x1024',
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024',
        'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
        'stdc/stdc1_4xb12-80k_cityscapes-512x1024',
        'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
        'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
        'icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832',
        'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024',
    ),
    'mmpose': (
        'body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192',
        'body_2d_keypoint/topdown_heatmap/coco/td-hm_mobilenetv2_8xb64-210e_coco-256x192',
        'body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192',
        'body_2d_keypoint/simcc/coco/simcc_mobilenetv2_wo-deconv-8xb64-210e_coco-256x192',
    ),
    'mmyolo': (
        'yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco',
        'yolov6/yolov6_n_syncbn_fast_8xb32-400e_coco',
        'yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco',
        'yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco',
        'ppyoloe/ppyoloe_plus_s_fast_8xb8-80e_coco',
    ),
}
FAMILY = tuple(f'{package}::{path}.py' for package in _PATHS for path in _PATHS[package])
"""Detectors, segmenters and pose estimators of other packages, by their configs there."""

PLACES = 'places of the image'
OFFSETS = 'offsets between places'
FREQUENCIES = 'frequencies of the image'
PIXELS = 'pixels of a patch of the input'
WAVES = 'sines and cosines of places'
INSIDE = 'channels of a head that goes as a whole'
HEADS = 'heads that lose channels instead'
SETS = 'sets of channels that lose channels instead'

LAWS = {
    r'\.complex_weight#[01]$': FREQUENCIES,
    r'\.stages\.0\.\d\.repmlp_block\.fc3|\.token_mix\.layers\.(0\.0\.weight|1)$': PLACES,
    r'^backbone\.(absolute_pos_embed|pos_embed(#[01])?|patch_pos|pixel_pos#[01])$': PLACES,
    r'\.repmlp_block\.(fc3|repconv\d)': SETS,
    r'\.pos_embed\.proj\.weight$': WAVES,
    r'\.attention1\.(ln1\.bias|attn\.qkv\.weight)$': PIXELS,
    r'\.(relative_position_bias_table#1|attention_biases#0)$': HEADS,
    r'\.(relative_position_bias_table|rel_pos_[hw])(#0)?$': OFFSETS,
    r'\.attention_biases(#1)?$|\.relative_pos#[01]$': OFFSETS,
    r'\.rel_pos_[hw]#1$|\.pool_[qkv]$|\.norm_[qkv]\.bias$': INSIDE,
}
"""Pattern of the names of pinned groups -> what these groups number; the first that matches.

They are no channels: a parameter with a row per place of the image, or per offset between two
places, has as many rows as there are places, and what removes one removes a part of the image.
``INSIDE`` and ``HEADS`` are a choice: with ``attention='dims'`` the first go, with ``'heads'`` the
second. ``SETS`` are mmprune's choice.
"""

CHOICES = {
    name: 'which neighbours are nearest' for name in ('vig/vig_tiny', 'vig/pyramid_vig_tiny')
}
"""Networks that choose -> what. Where two candidates are equal but for rounding, two right
computations in float32 choose differently; that they are right shows in float64."""


def law(space_id: str) -> str | None:
    """The law by which the group ``space_id`` cannot be pruned; None without one."""
    return next((words for pattern, words in LAWS.items() if re.search(pattern, space_id)), None)
