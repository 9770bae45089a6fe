"""The parts of a model by name, as torch's own generators give them, in a fraction of their time.

``named_modules`` and what is built on it hand each module on through as many generators as it lies
deep, and preparing a network walks through its modules some twenty times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

_LEFT_OUT = (type(None), torch.jit.ScriptModule)
"""What stands among modules and is none, or is a program, which has no tensors of its own here."""
_walked: ContextVar[dict[Any, dict[str, Any]] | None] = ContextVar('_walked', default=None)


@contextmanager
def walked_once() -> Iterator[None]:
    """Context in which only ``forget_walks`` tells that a model may hold other modules now."""
    token = _walked.set({})
    try:
        yield
    finally:
        _walked.reset(token)


def forget_walks() -> None:
    """Walk through models anew: code of theirs has run, and may have put in or taken out some."""
    known = _walked.get()
    if known:
        known.clear()


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by their first name, in the order of ``named_modules``."""
    known = _walked.get()
    if known is None:
        return _modules_of(model)
    if model not in known:
        known[model] = _modules_of(model)
    return dict(known[model])


def _modules_of(model: nn.Module) -> dict[str, nn.Module]:
    found, seen = {'': model}, {model}
    # What is still to come of each module that is being looked into, the innermost one last.
    rest = [('', iter(model._modules.items()))]
    while rest:
        prefix, inside = rest[-1]
        for local, module in inside:
            if module in seen or isinstance(module, _LEFT_OUT):
                continue
            seen.add(module)
            name = prefix + local
            found[name] = module
            if module._modules:
                rest.append((f'{name}.', iter(module._modules.items())))
                break
        else:
            rest.pop()
    return found


def places_of_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every name of every module of a model, of one that it holds twice all of them."""
    found, pending = [], [('', model)]
    while pending:
        name, module = pending.pop()
        found.append((name, module))
        if module._modules:
            prefix = f'{name}.' if name else ''
            inside = reversed(module._modules.items())
            pending += [(prefix + n, m) for n, m in inside if not isinstance(m, _LEFT_OUT)]
    return found


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by their first name, in the order of ``named_parameters``."""
    known = _walked.get()
    if known is None:
        return _tensors_of(model, '_parameters')
    key = model, '_parameters'
    if key not in known:
        known[key] = _tensors_of(model, '_parameters')
    return dict(known[key])


def buffers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of a model by their first name, in the order of ``named_buffers``."""
    return _tensors_of(model, '_buffers')


def names_of_parameters(model: nn.Module) -> dict[int, tuple[nn.Parameter, list[str]]]:
    """The parameters of a model with all their names, by their id."""
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, module in places_of_modules(model):
        for local, parameter in module._parameters.items():
            if parameter is not None:
                _, names = found.setdefault(id(parameter), (parameter, []))
                names.append(f'{name}.{local}' if name else local)
    return found


def _tensors_of(model: nn.Module, store: str) -> dict[str, Any]:
    found: dict[int, tuple[str, Any]] = {}
    for name, module in modules_of(model).items():
        for local, tensor in module.__dict__[store].items():
            if tensor is not None and id(tensor) not in found:
                found[id(tensor)] = (f'{name}.{local}' if name else local, tensor)
    return dict(found.values())
