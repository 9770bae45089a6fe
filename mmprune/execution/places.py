"""Which modules of a network are others than when it was prepared.

What runs networks replaces modules of theirs: mmengine's runner does so with norms, and fusing,
quantisation and adapters with more. A wrapper around a module (``torch.compile``, checkpointing)
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn


class Places:
    """Where every module stood, of which class it was, and which parameters it had.

    Args:
        modules: The modules of a network by name, the network itself under ''.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self._made_of = {n: (type(module), _present(module)) for n, module in modules.items()}
        self._wrappers: dict[str, nn.Module] = {}

    @cached_property
    def _stand(self) -> list[tuple[str, dict[str, Any], str, nn.Module, type, Any, list[str]]]:
        """In whose children each module stands, under what name, and what it was made of."""
        found: list[Any] = []
        for name, module in self.modules.items():
            owner, _, local = name.rpartition('.')
            children = self.modules[owner]._modules if name else {local: module}
            kind, present = self._made_of[name]
            found.append((name, children, local, module, kind, module._parameters, present))
        return found

    def changed(self) -> list[str]:
        """The modules that are others now, or have got or lost parameters."""
        wrappers = self._wrappers
        different = [
            name
            for name, children, local, module, kind, parameters, present in self._stand
            if (
                (now := children.get(local)) is not module and now is not wrappers.get(name, module)
            )
            or type(module) is not kind
            or (parameters and [n for n, t in parameters.items() if t is not None] != present)
            or (present and not parameters)
        ]
        return [name for name in different if not self._is_wrapped(name)]

    def _is_wrapped(self, name: str) -> bool:
        """Whether there is a wrapper around a module, which has no tensors of its own."""
        module, (owner, _, local) = self.modules[name], name.rpartition('.')
        now = self.modules[owner]._modules.get(local) if name else None
        if now is None or now is module or module not in set(now.modules()):
            return False
        if {*map(id, _tensors(now))} != {*map(id, _tensors(module))}:
            return False
        self._wrappers[name] = now
        return True

    def kind(self, name: str) -> type:
        """The class that a module was of."""
        return self._made_of[name][0]


def _present(module: nn.Module) -> list[str]:
    return [name for name, tensor in module._parameters.items() if tensor is not None]


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
