"""What modules have computed once, of weights or of their sizes, computed anew for smaller ones.

Torch's old weight_norm and spectral_norm compute a weight before every forward, by a hook.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mmprune.trace.walk import modules_of


def renew_computed_weights(model: nn.Module) -> None:
    """Compute anew what the modules hold as their weight until they run the next time.

    An encoder hands ragged tensors through its layers if all of them take these, which torch's
    kernel does for an even number of heads.
    """
    with torch.no_grad():
        for module in modules_of(model).values():
            if isinstance(module, nn.TransformerEncoder) and hasattr(module, 'use_nested_tensor'):
                heads = [layer.self_attn.num_heads for layer in module.layers]
                module.use_nested_tensor &= not any(number % 2 for number in heads)
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    setattr(module, hook.name, hook.compute_weight(module))
                elif isinstance(hook, SpectralNorm):
                    setattr(module, hook.name, hook.compute_weight(module, False))
