"""Weights that a hook computes before every forward: torch's old weight_norm and spectral_norm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mmprune.trace.walk import modules_of


def renew_computed_weights(model: nn.Module) -> None:
    """Compute anew what the modules hold as their weight until they run the next time."""
    with torch.no_grad():
        for module in modules_of(model).values():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    setattr(module, hook.name, hook.compute_weight(module))
                elif isinstance(hook, SpectralNorm):
                    setattr(module, hook.name, hook.compute_weight(module, False))
