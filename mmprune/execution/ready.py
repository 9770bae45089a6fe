"""All parts of a subnet's tensors, looked at once when the network begins to run.

Without gradients a part of a tensor stays what it is until the tensor is written to. To look after
that in every layer takes as long as the layers of a small network themselves. So it is done for
all of them together when the network is called, and until it has run its layers take their parts
as they are. A module that is called by itself looks after its own tensors.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

Parts = tuple[torch.Tensor | None, ...]
"""The tensors of a module in the order in which its function takes them."""


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


Fast = Callable[[Any, Parts, torch.Tensor], torch.Tensor]
_AFFINE = ('weight', 'bias')
_FAST: dict[Any, tuple[Fast, tuple[str, ...]]] = {
    nn.Conv1d.forward: (_conv, _AFFINE),
    nn.Conv2d.forward: (_conv, _AFFINE),
    nn.Conv3d.forward: (_conv, _AFFINE),
    nn.Linear.forward: (_linear, _AFFINE),
    nn.LayerNorm.forward: (_layer_norm, _AFFINE),
    nn.modules.batchnorm._BatchNorm.forward: (
        _batch_norm,
        (*_AFFINE, 'running_mean', 'running_var'),
    ),
}
"""Forward of a class of torch -> what computes it in eval mode, and the tensors for it."""


class _From(NamedTuple):
    """A tensor that a part was taken from, and what tells that it is still the same."""

    store: dict[str, Any]
    name: str
    full: torch.Tensor | None
    version: int
    address: int

    @classmethod
    def of(cls, module: nn.Module, name: str) -> _From:
        is_parameter = name in module._parameters
        store: dict[str, Any] = module._parameters if is_parameter else module._buffers
        full = store.get(name)
        if full is None or full.is_inference():
            return cls(store, name, full, 0, 0)
        return cls(store, name, full, full._version, full.data_ptr())

    @property
    def is_seen(self) -> bool:
        """Whether torch counts what is written to it."""
        return self.full is None or not self.full.is_inference()

    def holds(self) -> bool:
        """Whether it is in its place, and nobody has written to it."""
        full = self.full
        if self.store.get(self.name) is not full:
            return False
        return full is None or (full._version == self.version and full.data_ptr() == self.address)


class Ready:
    """Whether the parts of all layers are those of the tensors of now.

    Args:
        modules: The instrumented modules, each with its instrument.

    Attributes:
        holds: Whether they are known to be, because the network has looked and is running.
        is_off: Whether no parts are to be kept.
        alone: Held while the network runs and while a subnet is set: other threads wait.
    """

    def __init__(self, modules: list[tuple[nn.Module, Any]]) -> None:
        self.modules = modules
        self.holds = False
        self.is_off = False
        self.alone = threading.RLock()
        self._taken_from: list[_From] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Ready:
        copied = memo[id(self)] = Ready([])
        copied.modules = copy.deepcopy(self.modules, memo)
        return copied

    def forget(self) -> None:
        """Drop all parts; they are taken anew when the network runs the next time."""
        self._taken_from, self.holds = None, False
        for _, instrument in self.modules:
            instrument.parts = None

    def look(self) -> bool:
        """Make sure that all parts hold from now on; whether this has to be ended.

        Nothing is done with gradients, in a run inside of another one, and where parts
        are not to be kept.
        """
        if self.holds or self.is_off or torch.is_grad_enabled():
            return False
        if torch._C._are_functorch_transforms_active():
            return False
        if self._taken_from is None or not all([source.holds() for source in self._taken_from]):
            self._take()
        self.holds = True
        return True

    def _take(self) -> None:
        self.forget()
        taken: list[_From] = []
        for module, instrument in self.modules:
            fast, names = _FAST.get(type(module).forward, (None, ()))
            if fast is None or instrument.is_idle or not instrument.runs_kernel:
                continue
            sources = [_From.of(module, name) for name in names]
            if not all(source.is_seen for source in sources):
                continue
            if any(source.full is None for source in sources[len(_AFFINE) :]):
                continue  # a norm without statistics of its own
            own = instrument.own
            if not all(swap.keeps for swap in own.values()):
                continue
            instrument.fast = fast
            instrument.parts = tuple(
                [own[s.name].tensor() if s.name in own else s.full for s in sources]
            )
            taken += sources
        self._taken_from = taken
