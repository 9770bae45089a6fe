"""What stands in a parameter's or buffer's place while the supernet runs as a subnet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmprune.layers import Cut


@dataclass
class _Memo:
    """A part of a tensor, and what tells that the tensor is still what it was taken from."""

    full: torch.Tensor
    version: int
    address: int
    part: torch.Tensor

    def holds(self, full: torch.Tensor) -> bool:
        return (
            full is self.full and full._version == self.version and full.data_ptr() == self.address
        )


@dataclass(eq=False)
class Swap:
    """One tensor, in all modules that own it, and the subnet's part of it.

    Without gradients a part is computed once and kept until the full tensor, or the
    mode of the modules, changes. Writes through ``tensor.data`` cannot be seen: a part is not
    kept where a traced road makes some; after others, switch the mode or set the subnet again.

    Attributes:
        owners: (module, local name) of every place that holds the tensor.
        shape: Its full shape.
        is_buffer: Whether it is a buffer, which a forward may write to.
        cut: What the subnet has of it, in sliced execution; None for all.
        masks: 0/1 factors of the tensor's rank, in masked execution. A masked buffer is
            copied for the forward, and only its kept part is written back: as in slices,
            what the subnet does not have keeps the value that it has for wider ones.
        keeps: Whether parts are kept at all, which takes memory.
        mixing: Makes of the full tensor, a parameter, the one that is cut; None for itself.
    """

    owners: list[tuple[nn.Module, str]]
    shape: tuple[int, ...]
    is_buffer: bool
    cut: Cut | None = None
    masks: tuple[torch.Tensor, ...] = ()
    keeps: bool = True
    mixing: Callable[[torch.Tensor], torch.Tensor] | None = None
    _full: list[torch.Tensor] = field(default_factory=list)
    _memo: _Memo | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Swap:
        copied = memo[id(self)] = object.__new__(type(self))
        self.forget()
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def forget(self) -> None:
        """Drop what was computed from the full tensor."""
        self._memo = None

    def tensor(self) -> torch.Tensor:
        """The subnet's part, to be read only."""
        module, name = self.owners[0]
        full = (module._buffers if self.is_buffer else module._parameters)[name]
        assert full is not None
        if self._full:  # a module further out has swapped it in
            return full
        memo = self._memo  # as below, in short for the many small layers of a forward pass
        if memo is not None and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            return memo.part if memo.holds(full) else self._part(full, fresh=False)
        return self._part(full, fresh=False)

    def open(self) -> torch.Tensor:
        """The subnet's part, which may be written to; to be given to ``close``."""
        module, name = self.owners[0]
        full = self._store(module)[name]
        # What a module further out has swapped in it will keep.
        return full if self._full else self._part(full, fresh=True)

    def close(self, part: torch.Tensor) -> None:
        """Keep what was written to the part of a buffer."""
        module, name = self.owners[0]
        self._write_back(self._store(module)[name], part)

    def enter(self) -> None:
        """Put the part into its modules. Calls may nest; each ``enter`` wants a ``leave``."""
        module, name = self.owners[0]
        full = self._store(module)[name]
        self._full.append(full)
        if len(self._full) > 1:
            return
        part = self._part(full, fresh=self.is_buffer and module.training)
        # Functions of others than torch may take no views, and a deployed network has none.
        self._put(part if part is full or self.is_buffer else part.contiguous())

    def leave(self) -> None:
        """Put the full tensor back; keep what the forward wrote into a buffer."""
        full = self._full.pop()
        if self._full:
            return
        module, name = self.owners[0]
        part = self._store(module)[name]
        self._put(full)
        # A buffer that is read in float64 throughout stays as it is.
        if self.is_buffer and module.training and part.dtype == full.dtype:
            self._write_back(full, part)

    def _part(self, full: torch.Tensor, fresh: bool) -> torch.Tensor:
        if self.cut is None and not self.masks and self.mixing is None:
            return full
        if self.masks and self.is_buffer:
            return full.clone() if fresh else full
        if fresh or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._taken(full)
        memo = self._memo
        if memo is None or not memo.holds(full):
            part = self._taken(full.detach()).contiguous()
            if full.is_inference() or not self.keeps:
                return part
            self._memo = memo = _Memo(full, full._version, full.data_ptr(), part)
        return memo.part

    def _taken(self, full: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that the subnet has, or the tensor with zeros in the rest."""
        if self.mixing is not None:
            full = self.mixing(full)
        if self.cut is not None:
            return self.cut(full)
        if not self.masks:
            return full
        part = full * self.masks[0].to(full)
        for mask in self.masks[1:]:
            part = part.mul_(mask.to(full)) if not part.requires_grad else part * mask.to(full)
        return part

    def _write_back(self, full: torch.Tensor, part: torch.Tensor) -> None:
        # A run of channels is a view of the full tensor: what was written is there already, and
        # writing it again would break the backward pass, which holds on to the view.
        if part is full or part._base is full:
            return
        with torch.no_grad():
            if self.cut is not None:
                self.cut.write_back(full, part)
                return
            kept = self.masks[0]
            for mask in self.masks[1:]:
                kept = kept * mask
            full.copy_(torch.where(kept.to(full.device) > 0, part, full))

    def _put(self, tensor: torch.Tensor) -> None:
        for owner, local in self.owners:
            self._store(owner)[local] = tensor
            # Recurrent layers hold their weights a second time, in a list.
            names = owner.__dict__.get('_flat_weights_names', ())
            if local in names:
                owner._flat_weights[names.index(local)] = tensor  # type: ignore[operator]

    def _store(self, module: nn.Module) -> dict[str, Any]:
        return module._buffers if self.is_buffer else module._parameters
