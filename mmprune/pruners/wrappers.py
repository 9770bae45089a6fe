"""The network inside what is put around it."""

from __future__ import annotations

from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside an algorithm, a distributed wrapper or a compiled module."""
    while True:
        if is_model_wrapper(model):
            model = cast(nn.Module, model.module)
        elif isinstance(getattr(model, '_orig_mod', None), nn.Module):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(getattr(model, 'architecture', None), nn.Module):
            model = cast(nn.Module, model.architecture)
        else:
            return model
