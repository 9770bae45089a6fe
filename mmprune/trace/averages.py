"""Weights that a forward pass writes to: averages of other weights (momentum encoders).

``key.data.mul_(m).add_(query.data, alpha=1 - m)`` writes to a leaf of the graph, which autograd
refuses where gradients are on, as they are in a trace. Its numbers do not matter there. What
matters is that the channels of both weights are the same ones, so a sum of them stands for the
write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_WRITES = frozenset({
    'copy_', 'add_', 'sub_', 'mul_', 'div_', 'lerp_', 'addcmul_', 'addcdiv_',
    '__iadd__', '__isub__', '__imul__', '__itruediv__',
})  # fmt: skip
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class WrittenWeights(TorchFunctionMode):
    """Within it, element-wise writes to parameters are sums that nobody writes down.

    Attributes:
        sums: What stands for the writes, a node of the graph each.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.sums: list[torch.Tensor] = []
        self._storages = {
            p.untyped_storage()._cdata: p for p in model.parameters() if p.is_floating_point()
        }

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, '__name__', '')
        if name.startswith('_foreach_') and name.endswith('_'):
            others = [arg for arg in args[1:] if isinstance(arg, list | tuple)]
            written = [self._note(t, [o[n] for o in others]) for n, t in enumerate(args[0])]
            if all(written):
                return args[0]
        writes = (name in _WRITES or func == _SET_DATA) and isinstance(args[0], torch.Tensor)
        if writes and self._note(args[0], [*args[1:], *(kwargs or {}).values()]):
            return args[0]
        return func(*args, **(kwargs or {}))

    def _note(self, target: torch.Tensor, others: Sequence[Any]) -> bool:
        """Whether a write to ``target`` is one to a parameter, which is noted then."""
        parameter = self._storages.get(target.untyped_storage()._cdata)
        if parameter is None or target.shape != parameter.shape:
            return False
        if target.stride() != parameter.stride():
            return False
        with torch.enable_grad():
            for other in others:
                if not isinstance(other, torch.Tensor) or other is target:
                    continue
                if other.requires_grad and other.shape == target.shape:
                    self.sums.append(torch.add(parameter, other.to(parameter)))
        return True
