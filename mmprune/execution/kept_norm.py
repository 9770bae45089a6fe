"""Layer and group normalisation over kept channels only, for masked execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def _normalise(
    blocks: torch.Tensor, kept: torch.Tensor, dims: tuple[int, ...], eps: float
) -> torch.Tensor:
    """(x - mean) / std over ``dims``, statistics over the elements where ``kept`` is 1."""
    count = kept.expand_as(blocks).sum(dims, keepdim=True).clamp(min=1)
    mean = (blocks * kept).sum(dims, keepdim=True) / count
    centred = (blocks - mean) * kept
    variance = centred.square().sum(dims, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


class KeptNorm(TorchFunctionMode):
    """Within it, ``F.layer_norm`` and ``F.group_norm`` see only kept channels.

    Args:
        kept: 0/1 tensor over the channels that are normalised, (C,).
    """

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self.kept = kept

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.nn.functional.layer_norm, torch.layer_norm):
            return self._layer_norm(*args, **kwargs)
        if func in (torch.nn.functional.group_norm, torch.group_norm):
            return self._group_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _layer_norm(
        self,
        data: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> torch.Tensor:
        dims = tuple(range(-len(normalized_shape), 0))
        result = _normalise(data, self.kept.to(data), dims, eps)
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    def _group_norm(
        self,
        data: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> torch.Tensor:
        blocks = data.reshape(len(data), num_groups, -1)
        spread = self.kept.to(data).reshape(1, -1, *(1,) * (data.dim() - 2)).expand_as(data)
        kept = spread[:1].reshape(1, num_groups, -1)
        result = _normalise(blocks, kept, (-1,), eps).reshape(data.shape)
        shape = (1, -1, *(1,) * (data.dim() - 2))
        result = result if weight is None else result * weight.reshape(shape)
        return result if bias is None else result + bias.reshape(shape)
