"""Normalisation and reductions over kept channels only, for masked execution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_LAYER_NORM = (torch.nn.functional.layer_norm, torch.layer_norm)
_GROUP_NORM = (torch.nn.functional.group_norm, torch.group_norm)
_REDUCTIONS = {
    torch.mean: 'mean',
    torch.Tensor.mean: 'mean',
    torch.sum: 'sum',
    torch.Tensor.sum: 'sum',
    torch.amax: 'amax',
    torch.Tensor.amax: 'amax',
    torch.max: 'max',
    torch.Tensor.max: 'max',
}


@dataclass
class KeptDim:
    """Kept channels along the dim of a reduction.

    Attributes:
        kind: ``'norm'``, or the name of the reduction.
        dim: The dim, counted from the end.
        rank: Number of dims of the tensor.
        kept: Which channels are kept, (C,) bool.
    """

    kind: str
    dim: int
    rank: int
    kept: torch.Tensor

    def spread(self, data: torch.Tensor) -> torch.Tensor:
        """The kept channels as 0/1 numbers that broadcast to ``data``."""
        return self.kept.to(data).reshape(-1, *(1,) * (-1 - self.dim))

    def fits(self, data: torch.Tensor) -> bool:
        """Whether ``data`` is the tensor that was traced, by its rank and its channels."""
        return data.dim() == self.rank and data.shape[self.dim] == len(self.kept)


def _normalise(
    blocks: torch.Tensor, kept: torch.Tensor, dims: tuple[int, ...], eps: float
) -> torch.Tensor:
    """(x - mean) / std over ``dims``, statistics over the elements where ``kept`` is 1."""
    count = kept.expand_as(blocks).sum(dims, keepdim=True).clamp(min=1)
    mean = (blocks * kept).sum(dims, keepdim=True) / count
    centred = (blocks - mean) * kept
    variance = centred.square().sum(dims, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


class KeptStatistics(TorchFunctionMode):
    """Within it, norms and reductions over channels see only the kept ones."""

    def __init__(self, dims: Sequence[KeptDim]) -> None:
        super().__init__()
        self.dims = dims

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        data = args[0] if args else kwargs.get('input')
        if func in _LAYER_NORM or func in _GROUP_NORM:
            found = self._find('norm', data)
            if found is not None:
                run = self._layer_norm if func in _LAYER_NORM else self._group_norm
                return run(found, *args, **kwargs)
        elif func in _REDUCTIONS and len(args) + len(kwargs) > 1:
            found = self._find(_REDUCTIONS[func], data)
            dims = args[1] if len(args) > 1 else kwargs.get('dim', kwargs.get('axis'))
            if found is not None and data is not None and _reduces(dims, found):
                return self._reduce(found, func, data, dims, args[1:], kwargs)
        return func(*args, **kwargs)

    def _find(self, kind: str, data: Any) -> KeptDim | None:
        if not isinstance(data, torch.Tensor):
            return None
        return next((d for d in self.dims if d.kind == kind and d.fits(data)), None)

    def _reduce(
        self, dim: KeptDim, func: Any, data: torch.Tensor, dims: Any, rest: tuple, kwargs: Any
    ) -> Any:
        if dim.kind in ('max', 'amax'):
            gone = dim.spread(data) == 0
            data = data.masked_fill(gone, -math.inf)
        else:
            data = data * dim.spread(data)
        kwargs.pop('input', None)
        result = func(data, *rest, **kwargs)
        if dim.kind == 'mean':
            result = result * (len(dim.kept) / int(dim.kept.sum()))
        return result

    def _layer_norm(
        self,
        dim: KeptDim,
        data: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> torch.Tensor:
        dims = tuple(range(-len(normalized_shape), 0))
        result = _normalise(data, dim.spread(data), dims, eps)
        result = result if weight is None else result * weight
        return result if bias is None else result + bias

    def _group_norm(
        self,
        dim: KeptDim,
        data: torch.Tensor,
        num_groups: int,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> torch.Tensor:
        blocks = data.reshape(len(data), num_groups, -1)
        kept = dim.spread(data).expand_as(data[:1]).reshape(1, num_groups, -1)
        result = _normalise(blocks, kept, (-1,), eps).reshape(data.shape)
        shape = (1, -1, *(1,) * (data.dim() - 2))
        result = result if weight is None else result * weight.reshape(shape)
        return result if bias is None else result + bias.reshape(shape)


def _reduces(dims: Any, dim: KeptDim) -> bool:
    """Whether a reduction over ``dims`` is one over the channels."""
    if isinstance(dims, int):
        dims = (dims,)
    if not isinstance(dims, tuple | list):
        return False
    return any(d % dim.rank == dim.dim % dim.rank for d in dims)
