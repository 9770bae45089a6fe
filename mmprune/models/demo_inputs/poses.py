"""Images and keypoints of mmpose, encoded by the codec that a model's head brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.models.demo_inputs.metainfo import image_metainfo, random_boxes
from mmprune.registry import DEMO_INPUTS


@DEMO_INPUTS.register_module(name='BasePoseEstimator')
def of_pose_estimator(
    model: nn.Module, images: torch.Tensor, mode: str
) -> Mapping[str, Any] | None:
    """Images with a person each, all of whose keypoints are seen.

    A head without a codec finds boxes with keypoints in them, and is given these as they are.
    """
    if mode != 'loss':
        return dict(inputs=images, data_samples=None, mode=mode)
    from mmpose.codecs import YOLOXPoseAnnotationProcessor

    head = getattr(model, 'head', None)
    count = next(
        (n for n in (getattr(head, name, None) for name in _COUNTS) if isinstance(n, int)), None
    )
    if count is None:
        return None
    codec = getattr(head, 'decoder', None) or YOLOXPoseAnnotationProcessor()
    levels = len(set(getattr(head, 'level_indices', ())))
    samples = [_sample(codec, count, images, number, levels) for number in range(len(images))]
    return dict(inputs=images, data_samples=samples, mode=mode)


_COUNTS = ('num_keypoints', 'num_joints', 'out_channels')
"""Where a head says how many keypoints there are."""


def codec_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a pose estimator's codec is made for."""
    codec = getattr(getattr(model, 'head', None), 'decoder', None)
    parts = (codec, *vars(codec).values()) if codec is not None else ()  # some are made of others
    size = next((part.input_size for part in parts if hasattr(part, 'input_size')), None)
    return None if size is None else (int(size[1]), int(size[0]))


def _sample(codec: Any, count: int, images: torch.Tensor, number: int, levels: int) -> Any:
    from mmpose.codecs import DecoupledHeatmap
    from mmpose.datasets.transforms import PackPoseInputs
    from mmpose.structures.bbox import bbox_xyxy2corner

    height, width = (int(size) for size in images.shape[-2:])
    random = np.random.default_rng(number)
    visible = np.ones((1, count), np.float32)
    points = random.uniform(0.1, 0.9, (1, count, 2)) * np.array([width, height])
    points = points.astype(np.float32)
    boxes = random_boxes(images, 1, number).astype(np.float32)
    results = dict(
        image_metainfo(images),
        img=np.zeros((height, width, 3), np.uint8),
        input_size=(width, height),
        input_center=(boxes[0, :2] + boxes[0, 2:]) / 2,
        input_scale=boxes[0, 2:] - boxes[0, :2],
        flip_indices=list(range(count)),
        bbox=boxes,
        bbox_score=np.ones(1, np.float32),
        bbox_scale=boxes[:, 2:] - boxes[:, :2],
        area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        category_id=np.ones(1, int),
        keypoints=points,
        keypoints_visible=visible,
        keypoints_visible_weights=visible,
        dataset_keypoint_weights=np.ones(count, np.float32),
    )
    extra = {key: results.get(key) for key in getattr(codec, 'auxiliary_encode_keys', ())}
    if isinstance(codec, DecoupledHeatmap):
        extra['bbox'] = bbox_xyxy2corner(boxes)
    encoded = codec.encode(keypoints=points, keypoints_visible=visible, **extra)
    heatmap = getattr(codec, 'heatmap_size', None)
    if heatmap is not None:
        encoded['heatmap_mask'] = np.ones((int(heatmap[1]), int(heatmap[0])), np.float32)
    if levels:  # of heads that learn heatmaps of several sizes
        encoded = {key: [value] * levels for key, value in encoded.items()}
    results.update(encoded)
    for table in ('field_mapping_table', 'instance_mapping_table', 'label_mapping_table'):
        if getattr(codec, table, None):
            results[table] = dict(getattr(codec, table))
    results.get('field_mapping_table', {}).setdefault('heatmap_mask', 'heatmap_mask')
    return PackPoseInputs()(results)['data_samples'].to(images.device)
