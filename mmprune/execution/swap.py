"""Put another tensor in a parameter's or buffer's place for the time of one forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmprune.layers import Cut

Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Swap:
    """One tensor, in all modules that own it, and what stands in for it in a forward.

    Attributes:
        owners: (module, local name) of every place that holds the tensor.
        transform: From the full tensor to the one that the forward sees.
        is_buffer: Whether it is a buffer, which a forward may write to.
    """

    owners: list[tuple[nn.Module, str]]
    transform: Transform
    is_buffer: bool
    full: list[torch.Tensor] = field(default_factory=list)

    def enter(self) -> None:
        """Swap the tensor in. Calls may nest; each ``enter`` wants a ``leave``."""
        module, name = self.owners[0]
        store = module._buffers if self.is_buffer else module._parameters
        full = store[name]
        assert full is not None
        self.full.append(full)
        if len(self.full) > 1:
            return
        part = self.transform(full)
        for owner, local in self.owners:
            self._store(owner)[local] = part

    def leave(self) -> None:
        """Put the full tensor back; keep what the forward wrote into a buffer."""
        full = self.full.pop()
        if self.full:
            return
        module, name = self.owners[0]
        part = self._store(module)[name]
        for owner, local in self.owners:
            self._store(owner)[local] = full
        # A run of channels is a view of the full tensor: what was written is there already, and
        # writing it again would break the backward pass, which holds on to the view.
        is_view = part._base is full
        if self.is_buffer and module.training and not is_view:
            assert isinstance(self.transform, Cut | Shelter)
            with torch.no_grad():
                self.transform.write_back(full, part)

    def _store(self, module: nn.Module) -> dict[str, Any]:
        return module._buffers if self.is_buffer else module._parameters


@dataclass(frozen=True)
class Multiply:
    """A tensor times 0/1 masks of its rank."""

    masks: tuple[torch.Tensor, ...]

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with what is not kept set to zero."""
        for mask in self.masks:
            tensor = tensor * mask.to(tensor)
        return tensor


@dataclass(frozen=True)
class Shelter:
    """A copy of a buffer, of which only the kept part is written back.

    In masked execution a norm updates the running statistics of all channels; those that the
    subnet does not have keep the values that they have for wider ones, as in slices.
    """

    masks: tuple[torch.Tensor, ...]

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy for the forward to write to."""
        return tensor.clone()

    def write_back(self, full: torch.Tensor, part: torch.Tensor) -> None:
        """Copy what was written to the kept elements."""
        kept = torch.ones_like(full, dtype=torch.bool)
        for mask in self.masks:
            kept &= mask.to(kept)
        full.copy_(torch.where(kept, part, full))
