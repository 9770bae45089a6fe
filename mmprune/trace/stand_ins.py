"""What a trace calls in the place of some functions, so that the graph shows more.

Channels do not care about gradients: what runs under ``no_grad`` or on a detached tensor
depends on channels as everything else does. A tensor made in the likeness of another one
(``zeros_like``) has its channels. Stand-ins keep both in the graph. They change gradients,
which a trace does not compute.
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


def _alike(function: Callable[..., Any]) -> Callable[..., Any]:
    """The new tensor as one that comes from the tensor that it is like."""

    def call(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made = function(input, *args, **kwargs)
        if not (made.is_floating_point() and input.requires_grad and made.device == input.device):
            return made
        always = torch.ones((), dtype=torch.bool, device=made.device)
        return torch.where(always, made, input.to(made))

    return call


_SEEN_THROUGH: dict[Any, Callable[..., Any]] = {
    torch._C._set_grad_enabled: _keep_grad,
    torch.Tensor.detach: _alias,
    torch.detach: _alias,
    torch.Tensor.data.__get__: lambda tensor, *_: _alias(tensor),  # type: ignore[attr-defined]
    torch.Tensor.numpy: _outside(torch.Tensor.numpy),
    torch.Tensor.__array__: _outside(torch.Tensor.__array__),
    **{
        function: _alike(function)
        for function in (
            torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like,
            torch.rand_like, torch.randn_like,
        )
    },
}  # fmt: skip

FAITHFUL: StandIns = {**COMPOSITES, **RECURRENT}
"""Composites as one node, and nothing else."""
ALL: StandIns = {**FAITHFUL, **_SEEN_THROUGH}
