"""Algorithms, distillers and their losses, deployed networks and those with a teacher."""

from mmprune.models.autoslim import AutoSlim, Recalibration
from mmprune.models.autoslim_ddp import AutoSlimDDP
from mmprune.models.deployed import channel_list_model, deployed_model
from mmprune.models.distilled import distilled_model
from mmprune.models.distillers import SelfDistiller
from mmprune.models.kept_channels import kept_by_config
from mmprune.models.losses import ChannelWiseDivergence, KLDivergence, L2Loss
from mmprune.models.mobilenet_v1 import MobileNetV1
from mmprune.models.norm_statistics import kept_norm_statistics, recalibrate_norm_statistics
from mmprune.models.yolov5 import YOLOv5

__all__ = [
    'AutoSlim',
    'AutoSlimDDP',
    'ChannelWiseDivergence',
    'KLDivergence',
    'L2Loss',
    'MobileNetV1',
    'Recalibration',
    'SelfDistiller',
    'YOLOv5',
    'channel_list_model',
    'deployed_model',
    'distilled_model',
    'kept_by_config',
    'kept_norm_statistics',
    'recalibrate_norm_statistics',
]
