"""Data for importances that look at it, from a config's training images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from mmprune.errors import InputError
from mmprune.models.training_data import training_data
from mmprune.randomness import seeded
from mmprune.trace.chance import without_chance


def training_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss of an mmengine model on a batch of its dataloader, without mixing of images.

    Raises:
        InputError: The model is none of mmengine's.
    """
    if not isinstance(model, BaseModel):
        raise InputError(
            f'a {type(model).__name__} is no model of mmengine, so that the loss of a batch is '
            'unknown: call pruner.collect(batches, loss_fn) with a loss_fn of your own'
        )
    data = training_data(model.data_preprocessor, batch)
    with _in_training_but_for_layers(model), seeded(0), without_chance():
        return model.parse_losses(model(**data, mode='loss'))[0]


@contextlib.contextmanager
def _in_training_but_for_layers(model: nn.Module) -> Iterator[None]:
    """Context in which parts of a model give what their loss needs, some in training mode only.

    Layers, which are torch's or have no parts, stay in the mode that they are in: nothing is
    written to norms, and nothing is dropped.
    """
    own = (m for m in model.modules() if not type(m).__module__.startswith('torch.'))
    parts = [module for module in own if list(module.children())]
    before = [(part, part.training) for part in parts]
    try:
        for part in parts:
            part.training = True
        yield
    finally:
        for part, mode in before:
            part.training = mode
