"""Forwards of torch's own layers on a subnet's tensors, without a detour.

A patched forward runs for every layer of every image, and a narrow subnet's layers take
microseconds: what is done in Python around them counts. The layers here are given the
subnet's tensors directly; all other modules run their own forward with the tensors put in
place (``instrument.run_swapped``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Own = dict[str, Any]
"""Local tensor name -> Swap, for the tensors of a module that a subnet changes."""
Parts = tuple[torch.Tensor | None, ...]
"""The tensors of a module in the order in which its function takes them."""
Function = Callable[[Any, Any, torch.Tensor], torch.Tensor]
Kernel = tuple[Function, tuple[str, ...]]
"""What computes a forward in eval mode, given module, tensors and input; the tensors' names."""


def _conv(self: Any, parts: Parts, data: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = self._conv_forward(data, *parts)
    return result


def _linear(self: Any, parts: Any, data: torch.Tensor) -> torch.Tensor:
    return F.linear(data, *parts)


def _layer_norm(self: Any, parts: Parts, data: torch.Tensor) -> torch.Tensor:
    weight, bias = parts
    return F.layer_norm(data, self.normalized_shape, weight, bias, self.eps)


def _batch_norm(self: Any, parts: Parts, data: torch.Tensor) -> torch.Tensor:
    self._check_input_dim(data)
    weight, bias, mean, variance = parts
    fused = torch.backends.cudnn.enabled
    return torch.batch_norm(data, weight, bias, mean, variance, False, 0.0, self.eps, fused)


AFFINE = ('weight', 'bias')
STATISTICS = ('running_mean', 'running_var')
_KERNELS: dict[Any, Kernel] = {
    nn.Conv1d.forward: (_conv, AFFINE),
    nn.Conv2d.forward: (_conv, AFFINE),
    nn.Conv3d.forward: (_conv, AFFINE),
    nn.Linear.forward: (_linear, AFFINE),
    nn.LayerNorm.forward: (_layer_norm, AFFINE),
    nn.modules.batchnorm._BatchNorm.forward: (_batch_norm, (*AFFINE, *STATISTICS)),
}


def kernel_of(module: nn.Module) -> Kernel | None:
    """The kernel of a module whose forward is the one of torch's own class.

    It reads parameters; a weight that is computed from others is none.
    """
    if 'forward' in module.__dict__ or 'weight' not in module._parameters:
        return None
    return _KERNELS.get(type(module).forward)


def run_kernel(module: Any, kernel: Kernel, own: Own, data: torch.Tensor) -> torch.Tensor:
    """A module's forward on the subnet's tensors."""
    function, names = kernel
    if function is _batch_norm and (module.training or module.running_mean is None):
        return _batch_norm_of_batch(module, own, data)
    return function(module, tuple([_read(module, own, name) for name in names]), data)


def _read(module: nn.Module, own: Own, name: str) -> torch.Tensor | None:
    swap = own.get(name)
    if swap is not None:
        return swap.tensor()
    return module._parameters[name] if name in AFFINE else module._buffers[name]


def _batch_norm_of_batch(self: Any, own: Own, data: torch.Tensor) -> torch.Tensor:
    """As torch's own, which counts batches and takes a plain average if momentum is None."""
    self._check_input_dim(data)
    momentum = 0.0 if self.momentum is None else self.momentum
    parts: list[torch.Tensor | None] = [None, None]
    if self.training and self.track_running_stats:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        parts = [own[n].open() if n in own else self._buffers[n] for n in STATISTICS]
    weight, bias = (_read(self, own, name) for name in AFFINE)
    mean, variance = parts
    result = F.batch_norm(data, mean, variance, weight, bias, True, momentum, self.eps)
    for name, part in zip(STATISTICS, parts, strict=True):
        if name in own and part is not None:
            own[name].close(part)
    return result
