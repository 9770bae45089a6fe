"""What the losses of OpenMMLab's models are computed from, made of images alone.

The contract of a function here:

    function(model, demo_input) -> keywords of the model's forward, or None if it makes none

It is registered in ``LOSS_INPUTS`` by the name of a class of models; subclasses have it too. The
keywords hold the tensors of ``demo_input`` themselves. For example, for a classifier of three
classes and a batch of two images:

    dict(inputs=images, data_samples=[<label 0>, <label 1>], mode='loss')
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmprune.registry import LOSS_INPUTS

_CLASSIFIER = 'ImageClassifier'


@LOSS_INPUTS.register_module(name=_CLASSIFIER)
def of_classifier(model: nn.Module, demo_input: Any) -> Mapping[str, Any] | None:
    """Images of mmcls or of what came after it; all of class 0 if it does not say how many."""
    sample_type = _sample_type(model)
    if not isinstance(demo_input, torch.Tensor) or sample_type is None:
        return None
    classes = getattr(getattr(model, 'head', None), 'num_classes', None) or 1
    preprocessor = getattr(model, 'data_preprocessor', None)
    samples = []
    for number in range(len(demo_input)):
        label = torch.tensor([number % classes], device=demo_input.device)
        sample = sample_type().set_gt_label(label)
        if getattr(preprocessor, 'to_onehot', False):
            score = nn.functional.one_hot(label[0], classes)
            sample.set_gt_score(score.to(demo_input.dtype))
        samples.append(sample)
    return dict(inputs=demo_input, data_samples=samples, mode='loss')


def _sample_type(model: nn.Module) -> Any:
    """What the package that a classifier's class is from calls an image's labels, if it does."""
    home = next(kind.__module__ for kind in type(model).__mro__ if kind.__name__ == _CLASSIFIER)
    structures = sys.modules.get(f'{home.partition(".")[0]}.structures')
    return getattr(structures, 'ClsDataSample', getattr(structures, 'DataSample', None))
