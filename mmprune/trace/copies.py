"""Copies of tensors, made at the moment before somebody writes to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

Contents = dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""By id: a tensor that is written to, a view of its storage, and a copy of its numbers."""

# Functions that write to a tensor that they are given, or may, besides those whose name says so.
_WRITERS = frozenset({'__setitem__', 'batch_norm', 'instance_norm', 'embedding', 'embedding_bag'})
# They give the memory of a tensor to code that torch does not see.
_SHARERS = frozenset({'numpy', '__array__', '__dlpack__', 'data_ptr', 'untyped_storage'})
_OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)


class Copies:
    """Copies of what is about to be written to.

    A model's weights are many times what its forward pass writes to, which is nothing as a rule.

    Args:
        contents: Copies that are known already; new ones are added to it.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._by_storage: dict[int, list[torch.Tensor]] = {}
        self._written: set[int] = set()

    def watch(self, tensors: Iterable[torch.Tensor]) -> None:
        """Know these tensors by whatever name or view."""
        for tensor in tensors:
            self._by_storage.setdefault(_storage(tensor), []).append(tensor)

    def keep(self, tensor: torch.Tensor) -> None:
        """Copy what lies in the storage of ``tensor``, if it is watched."""
        for watched in self._by_storage.pop(_storage(tensor), ()):
            if id(watched) not in self.contents:
                data = watched.detach()
                self.contents[id(watched)] = (watched, data, data.clone())

    def note_write(self, tensor: torch.Tensor) -> None:
        """As ``keep``, and remember that something may have been written there."""
        self._written.add(_storage(tensor))
        self.keep(tensor)

    def is_written(self, tensor: torch.Tensor) -> bool:
        """Whether a write to the storage of ``tensor`` was noted."""
        return _storage(tensor) in self._written


def may_write(name: str, function: Any, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of torch of this name may write to tensors, or let others do so."""
    if name == 'batch_norm' and 'out' not in kwargs:  # it writes to its statistics in training
        return bool(kwargs.get('training', args[5] if len(args) > 5 else False))
    return (
        name in _WRITERS
        or name in _SHARERS
        or (name.endswith('_') and not name.endswith('__'))
        or name.startswith('__i')
        or 'out' in kwargs
        or isinstance(function, _OPERATORS)
    )


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
