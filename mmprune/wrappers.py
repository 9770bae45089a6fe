"""Wrappers that distributed training puts around a network."""

from __future__ import annotations

import sys
from typing import Any, cast

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def is_model_wrapper(model: nn.Module) -> bool:
    """Whether a module is a wrapper of torch, or one of mmengine: registered, or of a test.

    mmengine's own function comes with all of torch's distributed training, which takes a second to
    import. What is registered with mmengine is there only if ``mmengine.model`` was imported.
    """
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        return True
    known: Any = sys.modules.get('mmengine.model')
    if not hasattr(known, 'BaseTTAModel'):
        return False
    return isinstance(model, known.BaseTTAModel) or bool(known.is_model_wrapper(model))


def without_wrapper(model: nn.Module) -> Any:
    """A model itself, without what distributed training puts around it."""
    return model.module if is_model_wrapper(model) else model


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside an algorithm, a distributed wrapper, an average or a compiled module."""
    while True:
        if isinstance(model, AveragedModel) or is_model_wrapper(model):
            model = cast(nn.Module, model.module)
        elif isinstance(getattr(model, '_orig_mod', None), nn.Module):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(getattr(model, 'architecture', None), nn.Module):
            model = cast(nn.Module, model.architecture)
        else:
            return model
