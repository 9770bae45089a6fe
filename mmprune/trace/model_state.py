"""Leave a model exactly as it was, whatever a trial forward pass did to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# nn.Module's own bookkeeping: its dicts are live objects that are handled one by one.
_MODULE_INTERNALS = ('_parameters', '_buffers', '_modules')


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Attribute -> (object, its contents if it is a container)."""
    taken = {}
    for key, value in module.__dict__.items():
        if key not in _MODULE_INTERNALS:
            contents = value.copy() if type(value) in (dict, list, set) else None
            taken[key] = (value, contents)
    return taken


def _restore(module: nn.Module, taken: dict[str, tuple[Any, Any]]) -> None:
    for key in [k for k in module.__dict__ if k not in taken and k not in _MODULE_INTERNALS]:
        del module.__dict__[key]
    for key, (value, contents) in taken.items():
        if module.__dict__.get(key) is not value:
            module.__dict__[key] = value
        if isinstance(contents, list):
            value[:] = contents
        elif contents is not None:
            value.clear()
            value.update(contents)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Context in which ``model`` may be run and switched freely.

    On leaving it, also by an error, these are what they were: ``requires_grad`` and
    ``grad`` of every parameter, the train mode of every module, every buffer, every
    attribute of every module (so caches are emptied again), and the random state.
    """
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (module._buffers, name, buffer, buffer._version, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    attributes = [(module, _snapshot(module)) for module in model.modules()]
    devices = {p.device for p, _, _ in parameters if p.device.type == 'cuda'}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, taken in attributes:
                _restore(module, taken)
            for owner, name, buffer, version, value in buffers:
                owner[name] = buffer
                if buffer._version != version:
                    with torch.no_grad():
                        buffer.copy_(value)
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
