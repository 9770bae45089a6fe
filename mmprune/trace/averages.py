"""Weights that a forward pass writes to: averages of other weights (momentum encoders).

``key.data.mul_(m).add_(query.data, alpha=1 - m)`` writes to a leaf of the graph, which autograd
refuses where gradients are on, as they are in a trace. Its numbers do not matter there. What
matters is that the channels of both weights are the same ones, so a sum of them stands for the
write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mmprune.trace.walk import parameters_of

_NAMES = (
    'copy_', 'add_', 'sub_', 'mul_', 'div_', 'lerp_', 'addcmul_', 'addcdiv_',
    '__iadd__', '__isub__', '__imul__', '__itruediv__',
)  # fmt: skip
_WRITES = [
    *(getattr(torch.Tensor, name) for name in _NAMES),
    torch.Tensor.data.__set__,  # type: ignore[attr-defined]
]
_OF_LISTS = [
    getattr(torch, name)
    for name in dir(torch)
    if name.startswith('_foreach_') and name.endswith('_')
]


class WrittenWeights:
    """Stand-ins for element-wise writes: to a parameter of a model they write nothing.

    Attributes:
        sums: What stands for the writes, a node of the graph each.
        stand_ins: Function -> what is called in its place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sums: list[torch.Tensor] = []
        self.stand_ins: dict[Any, Callable[..., Any]] = {
            **{function: self._of_one(function) for function in _WRITES},
            **{function: self._of_several(function) for function in _OF_LISTS},
        }
        self._storages = {
            p.untyped_storage()._cdata: p
            for p in parameters_of(model).values()
            if p.is_floating_point()
        }

    def _of_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def write(target: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._note(target, [*args, *kwargs.values()]):
                return target
            return function(target, *args, **kwargs)

        return write

    def _of_several(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def write(targets: Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            if all(self._is_parameter(target) for target in targets):
                others = [arg for arg in args if isinstance(arg, list | tuple)]
                for place, target in enumerate(targets):
                    self._note(target, [other[place] for other in others])
                return None
            return function(targets, *args, **kwargs)

        return write

    def _is_parameter(self, target: torch.Tensor) -> bool:
        parameter = self._storages.get(target.untyped_storage()._cdata)
        if parameter is None:
            return False
        return (target.shape, target.stride()) == (parameter.shape, parameter.stride())

    def _note(self, target: torch.Tensor, others: Sequence[Any]) -> bool:
        """Whether a write to ``target`` is one to a parameter, which is noted then."""
        if not self._is_parameter(target):
            return False
        parameter = self._storages[target.untyped_storage()._cdata]
        for other in others:
            if not isinstance(other, torch.Tensor) or other is target:
                continue
            if other.requires_grad and other.shape == target.shape:
                self.sums.append(torch.add(parameter, other.to(parameter)))
        return True
