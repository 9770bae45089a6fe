"""Norms over some of their channels, computed on full-size tensors.

Zeros are enough for every other layer. A statistic over channels would count the removed ones,
so the layers that take one are replaced by what is written out here from their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class KeptNorm(nn.Module):
    """A layer, group or root-mean-square norm over some of its channels, the others being 0.

    Args:
        norm: The full norm.
        kept: Numbers of the channels that are there, ascending; as many in every group.
    """

    def __init__(self, norm: Any, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm: Any = norm
        self.kept = kept
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
        # A type-checked attribute of torch's own norms; the norm of HorNet is none of them.
        self.is_centred = not isinstance(norm, nn.RMSNorm)
        eps = norm.eps
        self.eps = torch.finfo(norm.weight.dtype).eps if eps is None else eps

    def forward(self, data: torch.Tensor, data_format: str | None = None) -> torch.Tensor:
        """Normalise ``data``; ``data_format`` is that of the LN2d of mmcls."""
        dim = _channel_dim(self.norm, data, data_format)
        present = data.index_select(dim, self.kept).movedim(dim, 1)
        dims: tuple[int, ...] = (1,)
        shape = present.shape
        if self.groups is not None:
            present = present.unflatten(1, (self.groups, -1))
            dims = tuple(range(2, present.dim()))
        if self.is_centred:
            present = present - present.mean(dims, keepdim=True)
        deviation = (present.square().mean(dims, keepdim=True) + self.eps).sqrt()
        result = (present / deviation).reshape(shape)
        if self.norm.weight is not None:
            across = (-1, *(1,) * (data.dim() - 2))
            result = result * self.norm.weight[self.kept].reshape(across)
            bias = getattr(self.norm, 'bias', None)
            if bias is not None:
                result = result + bias[self.kept].reshape(across)
        return torch.zeros_like(data).index_copy(dim, self.kept, result.movedim(1, dim))


def _channel_dim(norm: Any, data: torch.Tensor, data_format: str | None) -> int:
    """Where the channels are: the call, the norm, or its type says so."""
    said = data_format or getattr(norm, 'data_format', None)
    if said is not None:
        return data.dim() - 1 if said == 'channel_last' or said == 'channels_last' else 1
    return data.dim() - 1 if type(norm) in (nn.LayerNorm, nn.RMSNorm) else 1


class KeptResponseNorm(nn.Module):
    """Global response normalisation over some channels, the others being 0 afterwards.

    ConvNeXt V2 (Woo et al., 2023), sec. 3: the norm of every channel over space, divided by the
    mean of these norms over the channels, scales that channel.

    Args:
        norm: The full GRN of mmcls.
        kept: Numbers of the channels that are there.
    """

    def __init__(self, norm: Any, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm: Any = norm
        self.kept = kept

    def forward(self, data: torch.Tensor, data_format: str = 'channel_first') -> torch.Tensor:
        """``data`` is (N, C, H, W), or (N, H, W, C) if ``data_format`` is ``'channel_last'``."""
        dim = 3 if data_format == 'channel_last' else 1
        present = data.index_select(dim, self.kept).movedim(dim, 1)
        size = present.square().sum((2, 3), keepdim=True).sqrt()
        response = size / (size.sum(1, keepdim=True) / len(self.kept) + self.norm.eps)
        gamma, beta = (p[self.kept].reshape(-1, 1, 1) for p in (self.norm.gamma, self.norm.beta))
        result = gamma * (present * response) + beta + present
        return torch.zeros_like(data).index_copy(dim, self.kept, result.movedim(1, dim))


OVER_CHANNELS: dict[str, tuple[str, Callable[[Any, torch.Tensor], nn.Module]]] = {
    'LayerNorm': ('weight', KeptNorm),
    'GroupNorm': ('weight', KeptNorm),
    'RMSNorm': ('weight', KeptNorm),
    'HorNetLayerNorm': ('weight', KeptNorm),
    'GRN': ('gamma', KeptResponseNorm),
}
"""Class of a norm over channels, or of its nearest base -> a parameter that has its channels,
and what is put in its place."""


def norm_over_channels(module: nn.Module) -> tuple[str, Callable[..., nn.Module]] | None:
    """The row of ``OVER_CHANNELS`` for a module; None if it takes no statistic over channels."""
    names = (cls.__name__ for cls in type(module).__mro__)
    return next((OVER_CHANNELS[name] for name in names if name in OVER_CHANNELS), None)
