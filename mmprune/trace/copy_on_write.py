"""Copies of tensors, made at the moment before somebody writes to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Contents = dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""By id: a tensor that is written to, a view of its storage, and a copy of its numbers."""

# Their schemas do not say that they write to the running statistics, which they do in training.
_NORMS = frozenset({'aten::native_batch_norm', 'aten::cudnn_batch_norm', 'aten::miopen_batch_norm'})
_RUNNING, _TRAINING = ('running_mean', 'running_var'), 5


class CopyOnWrite(TorchDispatchMode):
    """Watches every operation of torch, and copies what it is about to write to.

    A model's weights are many times what its forward pass writes to, which is nothing as a rule.

    Args:
        contents: Copies that are known already; new ones are added to it.
    """

    def __init__(self, contents: Contents) -> None:
        super().__init__()
        self.contents = contents
        self._by_storage: dict[int, list[torch.Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would load its compiler for that, and what runs here is not compiled."""
        return False

    def watch(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy these tensors before they are written to, by whatever name or view."""
        for tensor in tensors:
            self._by_storage.setdefault(_storage(tensor), []).append(tensor)

    def keep(self, tensor: torch.Tensor) -> None:
        """Copy what lies in the storage of ``tensor``, if it is watched."""
        for watched in self._by_storage.pop(_storage(tensor), ()):
            if id(watched) not in self.contents:
                data = watched.detach()
                self.contents[id(watched)] = (watched, data, data.clone())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        positions, names = _written_by(func)
        if positions and not (func._schema.name in _NORMS and not args[_TRAINING]):
            given = [args[place] for place in positions if place < len(args)]
            given += [kwargs[name] for name in names if name in kwargs]
            for value in tree_leaves(given):
                if isinstance(value, torch.Tensor):
                    self.keep(value)
        return func(*args, **kwargs)


@cache
def _written_by(func: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Places and names of the arguments that an operation writes to."""
    schema = func._schema
    hidden = _RUNNING if schema.name in _NORMS else ()
    found = [
        (place, argument.name)
        for place, argument in enumerate(schema.arguments)
        if argument.name in hidden
        or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return tuple(place for place, _ in found), tuple(name for _, name in found)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
