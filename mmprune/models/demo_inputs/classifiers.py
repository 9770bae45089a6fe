"""Images and labels of mmcls, and of what came after it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmprune.registry import DEMO_INPUTS

_CLASSIFIER = 'ImageClassifier'


@DEMO_INPUTS.register_module(name=_CLASSIFIER)
def of_classifier(
    model: nn.Module, images: torch.Tensor, mode: str = 'loss'
) -> Mapping[str, Any] | None:
    """Images of one class after another; all of class 0 if the head does not say how many."""
    sample_type = _sample_type(model)
    if mode != 'loss' or sample_type is None:
        return None
    classes = getattr(getattr(model, 'head', None), 'num_classes', None) or 1
    preprocessor = getattr(model, 'data_preprocessor', None)
    samples = []
    for number in range(len(images)):
        label = torch.tensor([number % classes], device=images.device)
        sample = sample_type().set_gt_label(label)
        if getattr(preprocessor, 'to_onehot', False):
            score = nn.functional.one_hot(label[0], classes)
            sample.set_gt_score(score.to(images.dtype))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples, mode=mode)


def _sample_type(model: nn.Module) -> Any:
    """What the package that a classifier's class is from calls an image's labels, if it does."""
    home = next(kind.__module__ for kind in type(model).__mro__ if kind.__name__ == _CLASSIFIER)
    structures = sys.modules.get(f'{home.partition(".")[0]}.structures')
    return getattr(structures, 'ClsDataSample', getattr(structures, 'DataSample', None))
