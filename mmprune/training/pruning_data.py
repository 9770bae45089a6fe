"""Data for importances that look at it, from a config's training images."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from mmprune.errors import InputError


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
    losses = model(**model.data_preprocessor(batch, False), mode='loss')
    return model.parse_losses(losses)[0]
