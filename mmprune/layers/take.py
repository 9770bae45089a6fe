"""Rows and columns of a large weight, taken and given back in one go.

``index_select`` once per dim reads and writes the weight of all its kept rows on the way, and its
gradient twice as often. Here both move only what is kept, besides the zeros of the full gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

LARGE = 2**14
"""Elements of a weight from which on this is faster than ``index_select``."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Kept positions along the first two dims of a tensor.

    Attributes:
        shape: Shape of the full tensor, of at least two dims.
        outputs: Kept positions of the first dim, ascending or not; None for all.
        inputs: Kept positions of the second.
    """

    shape: torch.Size
    outputs: torch.Tensor | None
    inputs: torch.Tensor | None

    def is_on(self, device: torch.device) -> bool:
        """Whether the positions are on the device."""
        return all(k is None or k.device == device for k in (self.outputs, self.inputs))

    @cached_property
    def part(self) -> tuple[int, ...]:
        """Shape of what is kept."""
        kept = (self.outputs, self.inputs)
        return (
            *(s if k is None else len(k) for s, k in zip(self.shape, kept, strict=False)),
            *self.shape[2:],
        )

    @property
    def inner(self) -> int:
        """Elements that lie together and are kept together."""
        kernel = self.shape[2:].numel()
        return kernel if self.inputs is not None else kernel * self.shape[1]

    @cached_property
    def places(self) -> torch.Tensor:
        """Where those that are kept lie."""
        outputs, inputs = self.outputs, self.inputs
        if inputs is None:
            assert outputs is not None
            return outputs
        if outputs is None:
            outputs = torch.arange(self.shape[0], device=inputs.device)
        return (outputs[:, None] * self.shape[1] + inputs).flatten()

    def take(self, full: torch.Tensor) -> torch.Tensor:
        """The kept part of a contiguous tensor."""
        if self.inner > 1:
            return full.view(-1, self.inner).index_select(0, self.places).view(self.part)
        for dim, index in enumerate((self.outputs, self.inputs)):
            full = full if index is None else full.index_select(dim, index)
        return full

    def put(self, part: torch.Tensor) -> torch.Tensor:
        """The full tensor with zeros where nothing is kept."""
        full = part.new_zeros(self.shape)
        full.view(-1, self.inner).index_copy_(0, self.places, part.reshape(-1, self.inner))
        return full


class _Move(torch.autograd.Function):
    """``Rows.take``, or ``Rows.put`` on the way back: each is the other one's gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, rows: Rows, is_back: bool) -> torch.Tensor:
        ctx.rows, ctx.is_back = rows, is_back
        return rows.put(tensor) if is_back else rows.take(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Move.apply(gradient.contiguous(), ctx.rows, not ctx.is_back), None, None


def take(full: torch.Tensor, rows: Rows) -> torch.Tensor:
    """The kept part of a contiguous tensor. Gradients flow to ``full``, of any order."""
    is_transformed = torch._C._are_functorch_transforms_active()  # they take no such function
    if full.requires_grad and torch.is_grad_enabled() and not is_transformed:
        part: torch.Tensor = _Move.apply(full, rows, False)
        return part
    return rows.take(full)
