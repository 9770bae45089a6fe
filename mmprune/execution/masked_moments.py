"""Means and variances over the elements that a mask keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

Dims = tuple[int, ...]


def number_of_elements(data: torch.Tensor, mask: torch.Tensor, dims: Dims) -> torch.Tensor:
    """How many elements ``mask`` keeps along ``dims`` of ``data``, at least 1.

    Args:
        data: Of any shape.
        mask: 0/1, of the rank of ``data``, size 1 where it makes no difference.
        dims: The dims to count along; they have size 1 in the result.
    """
    count = mask.sum(dims, keepdim=True)
    for dim in dims:
        if mask.shape[dim] == 1:
            count = count * data.shape[dim]
    return count.clamp(min=1)


def standardised(data: torch.Tensor, mask: torch.Tensor, dims: Dims, eps: float) -> torch.Tensor:
    """(x - mean) / sqrt(var + eps) of the kept elements along ``dims``, 0 elsewhere."""
    count = number_of_elements(data, mask, dims)
    centred = (data - (data * mask).sum(dims, keepdim=True) / count) * mask
    variance = centred.square().sum(dims, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


def masked_variance(
    kind: str,
    data: torch.Tensor,
    mask: torch.Tensor,
    dims: Dims,
    rest: tuple,
    kwargs: Mapping[str, Any],
) -> Any:
    """What ``torch.var``, ``std``, ``var_mean`` or ``std_mean`` give for the kept elements.

    Args:
        kind: ``'var'``, ``'std'``, ``'varmean'`` or ``'stdmean'``.
        data: The tensor.
        mask: Its kept elements, 0/1.
        dims: The dims to reduce, counted from the end.
        rest: The call's positional arguments behind the tensor.
        kwargs: The call's keywords.
    """
    flags = rest if rest and isinstance(rest[0], bool) else rest[1:]
    unbiased = flags[0] if flags else kwargs.get('unbiased', True)
    correction = kwargs.get('correction')
    correction = int(unbiased) if correction is None else correction
    keepdim = flags[1] if len(flags) > 1 else kwargs.get('keepdim', False)
    count = number_of_elements(data, mask, dims)
    mean = (data * mask).sum(dims, keepdim=True) / count
    centred = (data - mean) * mask
    spread = centred.square().sum(dims, keepdim=True) / (count - correction)
    if kind.startswith('std'):
        # The slope of a root is infinite at 0, where rows of weights that are not kept are.
        positive = spread > 0
        spread = torch.where(positive, spread, 1).sqrt() * positive
    if not keepdim:
        spread, mean = spread.squeeze(dims), mean.squeeze(dims)
    return (spread, mean) if kind.endswith('mean') else spread
