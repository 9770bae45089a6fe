"""What a trace calls in the place of some functions, so that the graph shows more.

Channels do not care about gradients: what runs under ``no_grad`` or on a detached tensor
depends on channels as everything else does. Stand-ins keep it in the graph. They change
gradients, which a trace does not compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmprune.trace.composites import COMPOSITES
from mmprune.trace.recurrent import RECURRENT

StandIns = Mapping[Any, Callable[..., Any]]


def _keep_grad(mode: bool) -> None:
    """Instead of turning gradients off or on."""


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, as a node of the graph."""
    return torch.ops.aten.alias(tensor)


def _outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors without a graph."""
    return lambda tensor, *args, **kwargs: function(tensor.detach(), *args, **kwargs)


_SEEN_THROUGH: dict[Any, Callable[..., Any]] = {
    torch._C._set_grad_enabled: _keep_grad,
    torch.Tensor.detach: _alias,
    torch.detach: _alias,
    torch.Tensor.data.__get__: lambda tensor, *_: _alias(tensor),  # type: ignore[attr-defined]
    torch.Tensor.numpy: _outside(torch.Tensor.numpy),
    torch.Tensor.__array__: _outside(torch.Tensor.__array__),
}

FAITHFUL: StandIns = {**COMPOSITES, **RECURRENT}
"""Composites as one node, and nothing else."""
ALL: StandIns = {**FAITHFUL, **_SEEN_THROUGH}
