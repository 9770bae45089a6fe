"""A peer for the masks: every convolution's input is multiplied by a mask, as in MMRazor 0.x."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn


def with_input_masks(network: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers multiply their input by a buffer ``in_mask``.

    The least that MMRazor 0.2 and 0.3 do: their pruner patches forwards to
    ``conv(input * in_mask)``. What they do besides is left out.
    """
    masked = copy.deepcopy(network)
    for module in masked.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _mask(module, channels=module.weight.shape[1] * getattr(module, 'groups', 1))
    return masked


def _mask(module: Any, channels: int) -> None:
    shape = (1, channels, 1, 1) if isinstance(module, nn.Conv2d) else (1, channels)
    # Ones: what a multiplication costs does not depend on it.
    module.register_buffer('in_mask', torch.ones(shape).to(module.weight))
    module.forward = partial(_masked_forward, module, module.forward)


def _masked_forward(
    module: Any, forward: Callable[[torch.Tensor], torch.Tensor], data: torch.Tensor
) -> torch.Tensor:
    return forward(data * module.in_mask)
