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
Kernel = Callable[[Any, Own, torch.Tensor], torch.Tensor]


def _read(module: nn.Module, own: Own, name: str) -> torch.Tensor | None:
    swap = own.get(name)
    return module._parameters[name] if swap is None else swap.tensor()


def _conv(self: Any, own: Own, data: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = self._conv_forward(
        data, _read(self, own, 'weight'), _read(self, own, 'bias')
    )
    return result


def _linear(self: Any, own: Own, data: torch.Tensor) -> torch.Tensor:
    weight = _read(self, own, 'weight')
    assert weight is not None
    return F.linear(data, weight, _read(self, own, 'bias'))


def _layer_norm(self: Any, own: Own, data: torch.Tensor) -> torch.Tensor:
    weight, bias = _read(self, own, 'weight'), _read(self, own, 'bias')
    return F.layer_norm(data, self.normalized_shape, weight, bias, self.eps)


def _batch_norm(self: Any, own: Own, data: torch.Tensor) -> torch.Tensor:
    """As torch's own, which counts batches and takes a plain average if momentum is None."""
    self._check_input_dim(data)
    momentum = 0.0 if self.momentum is None else self.momentum
    names = ('running_mean', 'running_var')
    is_written = self.training and self.track_running_stats
    if is_written and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
    if self.training and not self.track_running_stats:
        mean = variance = None
    else:
        mean, variance = (
            self._buffers[name]
            if name not in own
            else own[name].open()
            if is_written
            else own[name].tensor()
            for name in names
        )
    result = F.batch_norm(
        data,
        mean,
        variance,
        _read(self, own, 'weight'),
        _read(self, own, 'bias'),
        self.training or (mean is None and variance is None),
        momentum,
        self.eps,
    )
    if is_written:
        for name, part in zip(names, (mean, variance), strict=True):
            if name in own:
                own[name].close(part)
    return result


_KERNELS: dict[Any, Kernel] = {
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
    nn.Linear.forward: _linear,
    nn.LayerNorm.forward: _layer_norm,
    nn.modules.batchnorm._BatchNorm.forward: _batch_norm,
}


def kernel_of(module: nn.Module) -> Kernel | None:
    """The kernel of a module whose forward is the one of torch's own class.

    It reads parameters; a weight that is computed from others is none.
    """
    if 'forward' in module.__dict__ or 'weight' not in module._parameters:
        return None
    return _KERNELS.get(type(module).forward)
