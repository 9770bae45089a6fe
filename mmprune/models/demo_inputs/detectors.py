"""Images and objects of mmdet and mmyolo; proposals that do not depend on what a network finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.models.demo_inputs.metainfo import classes_of, image_metainfo, random_boxes
from mmprune.registry import DEMO_INPUTS
from mmprune.trace.roads import Road

_OBJECTS, _PROPOSALS = 3, 8
_FINDER = 'rpn_head'
_proposing: ContextVar[Callable[..., list[Any]]] = ContextVar('_proposing')


_LEARNED = '_decode_init_proposals'
"""The method of a first stage whose boxes are weights, which a network with any numbers has turned
inside out."""


class _Proposer:
    """In the place of a first stage's ``predict_by_feat``: what this context proposes.

    Several passes through a network may wait for each other, each with images of its own.
    """

    def __init__(self, part: nn.Module) -> None:
        self.part, self.passes = part, 0

    def __call__(self, *outputs: Any, batch_img_metas: Any = None, **_: Any) -> list[Any]:
        return _proposing.get()(outputs, batch_img_metas)


class _Placer(_Proposer):
    """In the place of a first stage's boxes that are weights: as many others, and its features."""

    def __call__(self, *_: Any, x: Any = (), **given: Any) -> list[Any]:
        found: list[Any] = getattr(type(self.part), _LEARNED)(self.part, x=x, **given)
        for number, proposals in enumerate(found):
            shares = random_boxes(torch.empty(1, 1), len(proposals.bboxes), 100 + number)
            boxes = torch.from_numpy(shares).to(x[0]) * proposals.imgs_whwh
            proposals.bboxes = boxes + 0 * proposals.bboxes  # they are read all the same
        return found


@DEMO_INPUTS.register_module(name='BaseDetector')
def of_detector(
    model: nn.Module, images: torch.Tensor, mode: str
) -> Mapping[str, Any] | Callable[[nn.Module], Any] | None:
    """Images with a few objects each: boxes, labels and a map of classes.

    They have masks as well if a part of the detector is named for masks: assigners of those that
    find boxes alone cannot take them as the data has them.

    Detectors of one stage give what is dense from the images alone.

    What NMS and top-k pick for the second stage is no function of channels that a comparison
    could stand on, so that the heads of a two-stage detector get the same proposals always. Its
    outputs are those of its first stage, with those of its heads or the losses.
    """
    owner = next(kind.__name__ for kind in type(model).__mro__ if '_forward' in vars(kind))
    if mode == 'tensor' and owner == 'SingleStageDetector':
        return None
    keywords = dict(inputs=images, data_samples=_samples(model, images), mode=mode)
    if not _finders(model):
        return keywords

    def on_fixed_proposals(network: nn.Module) -> Any:
        with fixed_proposals(network, images) as found:
            outputs = network(**keywords)
        return found, _without_features(outputs)

    return on_fixed_proposals


def _without_features(outputs: Any) -> Any:
    """What heads give, but for the features that some hand on to the next stage by it."""
    if isinstance(outputs, Mapping):
        names = [name for name in outputs if not name.rstrip('s').endswith('feat')]
        return {name: _without_features(outputs[name]) for name in names}
    if isinstance(outputs, tuple | list):
        return [_without_features(output) for output in outputs]
    return outputs


@DEMO_INPUTS.register_module(name='YOLODetector')
def of_yolo_detector(model: nn.Module, images: torch.Tensor, mode: str) -> Mapping[str, Any] | None:
    """Images with a few objects each, in one table for the batch, as mmyolo collates them.

    Every object has a mask and keypoints; heads take what they learn.
    """
    if mode == 'tensor':
        return None
    corners = [random_boxes(images, _OBJECTS, number) for number in range(len(images))]
    boxes = torch.from_numpy(np.concatenate(corners)).to(images)
    masks = torch.from_numpy(_masks_of(np.concatenate(corners), images)).to(images)
    numbers = torch.arange(len(boxes), device=images.device)[:, None]
    labels = numbers % _OBJECTS % classes_of(model)
    counts = (getattr(module, 'num_keypoints', 0) for module in model.modules())
    steps = torch.linspace(0.1, 0.9, max(1, *counts), device=images.device)[:, None].to(images)
    points = boxes[:, None, :2].lerp(boxes[:, None, 2:], steps)
    objects = dict(
        bboxes_labels=torch.cat([numbers // _OBJECTS, labels, boxes], dim=1),
        masks=masks,
        keypoints=points,
        keypoints_visible=torch.ones_like(points[..., 0]),
        img_metas=[image_metainfo(images)] * len(images),
    )
    return dict(inputs=images, data_samples=objects, mode=mode)


def exported(model: nn.Module, road: Road) -> Road:
    """What an ONNX file can hold of a road: of a detector of two stages, the first one.

    RoI pooling is an operation of a compiled extension, which no exporter looks into.
    """
    if not _finders(model):
        return road

    def first_stage(model: nn.Module, images: torch.Tensor) -> Callable[[Any], Any]:
        return lambda network: network.rpn_head(network.extract_feat(images))

    return replace(road, pack=first_stage)


@contextmanager
def fixed_proposals(model: nn.Module, images: torch.Tensor) -> Iterator[list[Any]]:
    """Context in which a detector's first stage proposes the same boxes whatever it computes.

    Gives a list, to which what the first stage computed is added.
    """
    found: list[Any] = []

    def propose(outputs: Any, metainfo: Any) -> list[Any]:
        found.append(outputs)
        # Of branches of several dilations each has the images for itself.
        count = len(images) if metainfo is None else len(metainfo)
        return [_proposals(images, number % len(images)) for number in range(count)]

    token = _proposing.set(propose)
    with ExitStack() as stack:
        stack.callback(_proposing.reset, token)
        for part in _finders(model):
            for name, kind in (('predict_by_feat', _Proposer), (_LEARNED, _Placer)):
                if hasattr(part, name):
                    stack.enter_context(_replaced(part, name, kind))
        yield found


def _proposals(images: torch.Tensor, number: int) -> Any:
    """What a first stage would find in an image of this number."""
    from mmengine.structures import InstanceData

    boxes = torch.from_numpy(random_boxes(images, _PROPOSALS, 100 + number)).to(images)
    labels = torch.zeros(len(boxes), dtype=torch.long, device=images.device)
    return InstanceData(bboxes=boxes, scores=boxes.new_ones(len(boxes)), labels=labels)


@contextmanager
def _replaced(part: nn.Module, name: str, kind: type[_Proposer]) -> Iterator[None]:
    """Context in which a method of a part is another one; the last one out puts it back."""
    own = vars(part)
    proposer = own.setdefault(name, kind(part))
    proposer.passes += 1
    try:
        yield
    finally:
        proposer.passes -= 1
        if not proposer.passes:
            own.pop(name, None)


def _finders(model: nn.Module) -> list[nn.Module]:
    """The parts of a detector's first stage, if it has two."""
    first = getattr(model, _FINDER, None)
    return list(first.modules()) if isinstance(first, nn.Module) else []


def _samples(model: nn.Module, images: torch.Tensor) -> list[Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    classes = classes_of(model, but=[_FINDER])
    with_masks = any('mask' in name for name, _ in model.named_modules())
    height, width = (int(size) for size in images.shape[-2:])
    samples = []
    for number in range(len(images)):
        boxes = random_boxes(images, _OBJECTS, number)
        masks = _masks_of(boxes, images)
        labels = torch.arange(_OBJECTS, device=images.device) % classes
        area = masks.argmax(0)[None] % classes
        sample = DetDataSample(metainfo=image_metainfo(images))
        found = InstanceData(bboxes=torch.from_numpy(boxes).to(images), labels=labels)
        ignored = InstanceData(bboxes=images.new_zeros(0, 4), labels=labels[:0])
        if with_masks:
            found.masks = BitmapMasks(masks, height, width)
            ignored.masks = BitmapMasks([], height, width)
        sample.gt_instances, sample.ignored_instances = found, ignored
        sample.proposals = _proposals(images, number)  # for detectors without a first stage
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(area).to(images.device))
        samples.append(sample)
    return samples


def _masks_of(boxes: np.ndarray, images: torch.Tensor) -> np.ndarray:
    """The objects (n, height, width) that fill their boxes."""
    masks = np.zeros((len(boxes), *images.shape[-2:]), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    return masks
