"""Networks whose numbers prove something: random weights and random norm statistics."""

import numpy as np
import torch
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and running statistics, so that outputs are far from zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.copy_(values * (1.6 / fan_in**0.5) if parameter.dim() > 1 else 1 + values / 3)
    for name, buffer in model.named_buffers():
        if name.endswith('running_mean'):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith('running_var'):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def scattered(pruner, seed: int = 0, ratio: float = 0.5):
    """A subnet that keeps about ``ratio`` of every group, in no group the first channels."""
    random = np.random.default_rng(seed)
    subnet = {}
    for space_id, group in pruner.channel_groups.items():
        if not group.prunable:
            continue
        scores = random.random(group.num_channels)
        scores[0] = -1  # channel 0 is dropped wherever constraints allow it
        mask = group.select(scores, max(1, int(group.num_channels * ratio)))
        shape = pruner.channel_spaces[space_id].shape
        subnet[space_id] = torch.from_numpy(mask.astype(np.float32)).reshape(shape)
    return subnet
