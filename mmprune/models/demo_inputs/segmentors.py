"""Images and maps of classes of mmseg."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.models.demo_inputs.metainfo import classes_of, image_metainfo
from mmprune.registry import DEMO_INPUTS


@DEMO_INPUTS.register_module(name='BaseSegmentor')
def of_segmentor(
    model: nn.Module, images: torch.Tensor, mode: str = 'loss'
) -> Mapping[str, Any] | Callable[[Any], Any] | None:
    """Images whose pixels have any class, with edges and depths for the heads that learn these."""
    if mode != 'loss':
        return _in_eval_mode(model, images)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes = classes_of(model)
    height, width = (int(size) for size in images.shape[-2:])
    samples = []
    for number in range(len(images)):
        random = np.random.default_rng(number)

        def pixels(high: int, random: np.random.Generator = random) -> PixelData:
            values = torch.from_numpy(random.integers(0, high, (1, height, width)))
            return PixelData(data=values.to(images.device))

        sample = SegDataSample(metainfo=image_metainfo(images))
        sample.set_data({'gt_sem_seg': pixels(classes), 'gt_edge_map': pixels(2)})
        samples.append(sample)
    return dict(inputs=images, data_samples=samples, mode=mode)


def _in_eval_mode(model: nn.Module, images: torch.Tensor) -> Callable[[Any], Any] | None:
    """What prediction calls, where the tensor mode fails: several heads, and heads of queries."""
    head = getattr(model, 'decode_head', None)
    if head is None or not (isinstance(head, nn.ModuleList) or _takes_more(head)):
        return None
    metainfo = [image_metainfo(images)] * len(images)
    return lambda network: network.encode_decode(images, metainfo)


def _takes_more(head: nn.Module) -> bool:
    """Whether a head cannot be called with features alone."""
    parameters = inspect.signature(head.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) > 1
