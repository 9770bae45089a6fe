"""What models are called with to be looked at, made of noise images alone.

The contract of a function here:

    function(model, images, mode, **options) -> what the model is called with, or None

``images`` is a batch of noise, ``mode`` is ``'tensor'`` or ``'loss'``. What it gives is a dict of
keywords, a tuple of arguments, or a function of the model; it hands on ``images`` itself, in the
type and on the device that it has. None: the model is called with the images alone, or has no
loss that the function knows. It gives the same at every call. For example, for the loss of a
classifier of three classes and a batch of two images:

    dict(inputs=images, data_samples=[<label 0>, <label 1>], mode='loss')

A function is registered in ``DEMO_INPUTS`` by the name of a class of models, whose default it is,
and that of subclasses; or by any name, which ``demo_input=dict(type=...)`` of a config says.
"""

from mmprune.models.demo_inputs.classifiers import of_classifier
from mmprune.models.demo_inputs.configured import ConfiguredInput
from mmprune.models.demo_inputs.detectors import (
    exported,
    of_detector,
    of_yolo_detector,
)
from mmprune.models.demo_inputs.poses import of_pose_estimator
from mmprune.models.demo_inputs.segmentors import of_segmentor

__all__ = [
    'ConfiguredInput',
    'exported',
    'of_classifier',
    'of_detector',
    'of_pose_estimator',
    'of_segmentor',
    'of_yolo_detector',
]
