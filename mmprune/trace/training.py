"""Whether a network may do something else in training than in eval mode.

Norms and dropout of torch do not count: they differ in numbers, not in channels.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.trace.model_state import may_cache

TORCH = str(Path(torch.__file__).parent / 'nn')
_MISSING = object()


@contextlib.contextmanager
def noted_readers() -> Iterator[set[nn.Module]]:
    """Collect the modules that code other than torch's own asks whether they train.

    A property stands in front of the attribute ``training`` of every module meanwhile.
    """
    found: set[nn.Module] = set()

    def get(module: nn.Module) -> Any:
        if not sys._getframe(1).f_code.co_filename.startswith(TORCH):
            found.add(module)
        value = module.__dict__.get('training', _MISSING)
        return type(module).__getattr__(module, 'training') if value is _MISSING else value

    def set_(module: nn.Module, value: Any) -> None:
        module.__dict__['training'] = value

    nn.Module.training = property(get, set_)  # type: ignore[assignment]
    try:
        yield found
    finally:
        del nn.Module.training


def train(model: nn.Module) -> set[nn.Module]:
    """Put a model into training mode; the modules in which more changes than their modes."""
    modules = list(model.modules())
    before = []
    if any(may_cache(module) for module in modules):
        before = [(module, _attributes(module)) for module in modules]
    model.train()
    return {module for module, attributes in before if _attributes(module) != attributes}


def _attributes(module: nn.Module) -> dict[str, int]:
    """Which objects a module holds, by id."""
    own = {name: id(value) for name, value in vars(module).items() if name != 'training'}
    stores = (module._parameters, module._buffers, module._modules)
    for name, value in ((n, v) for store in stores for n, v in store.items()):
        own[f'.{name}'] = id(value)
    return own


def is_opaque_to_readers(model: nn.Module) -> bool:
    """Whether parts of a model are compiled, so that nobody sees what they ask."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
