"""Buffers that a trace needs as leaves of its graph, and that require grad for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from mmprune.trace.walk import modules_of


@contextlib.contextmanager
def requiring_grad(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let buffers require grad for a while."""
    before = [(tensor, tensor.requires_grad) for tensor in tensors]
    try:
        for tensor, _ in before:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, required in before:
            tensor.requires_grad_(required)


def constant_buffers(
    model: nn.Module, statistics: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Float buffers that a forward may use as it uses parameters: fixed position embeddings.

    Args:
        model: The model.
        statistics: Those that are none of them.
    """
    apart = {id(buffer) for buffer in statistics.values()}
    return {
        f'{owner}.{local}' if owner else local: buffer
        for owner, module in modules_of(model).items()
        for local, buffer in module._buffers.items()
        if buffer is not None and id(buffer) not in apart
        if buffer.is_floating_point() and buffer.numel() > 1 and buffer.is_leaf
    }


def running_statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those of norms, which are leaves of the graph only if other code reads them (fused)."""
    return {
        f'{owner}.{local}' if owner else local: buffer
        for owner, module in modules_of(model).items()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for local in ('running_mean', 'running_var')
        if (buffer := module._buffers[local]) is not None
    }
