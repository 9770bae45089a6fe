"""Modules that some method of their owner uses, but that no road has run."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType

from torch import nn

from mmprune.trace import TraceGraph
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS
from mmprune.trace.walk import modules_of

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


def unwalked_readers(model: nn.Module, graph: TraceGraph) -> dict[str, int]:
    """Modules that may run on a road that nobody has told of, and how many channels each reads.

    A module whose name stands in no method of its owner is never run, and not among them.
    """
    run = {call.module for call in graph.calls}
    reached = set(graph.parameters) - graph.unreached.keys()
    owners = {name.rpartition('.')[0] for name in reached}
    alive = run.union(*(_around(owner) for owner in owners))
    found: dict[str, int] = {}
    dead: set[str] = set()
    for name, module in modules_of(model).items():
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        is_known = any(f'{name}.'.startswith(f'{other}.') for other in (*found, *dead))
        if not name or is_list or name in alive or is_known:
            continue
        width = _width_read(module)
        if not _is_named(model, name):
            dead.add(name)
        elif width:
            found[name] = width
    return found


def _around(name: str) -> list[str]:
    """The name of a module, and of all modules that it is in but the network."""
    parts = name.split('.')
    return ['.'.join(parts[:stop]) for stop in range(1, len(parts) + 1)]


def _width_read(module: nn.Module) -> int | None:
    """How many channels the first layer in a module reads."""
    for layer in modules_of(module).values():
        if isinstance(layer, (*CONVS, *TRANSPOSED_CONVS)):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            return layer.in_features
        if isinstance(layer, NORMS):
            width: int = getattr(layer, 'num_features', None) or layer.num_channels  # type: ignore
            return width
    return None


def _is_named(model: nn.Module, name: str) -> bool:
    """Whether some method of a module's owner says its name, or that of the list it is in."""
    owner, _, local = name.rpartition('.')
    parent = model.get_submodule(owner)
    while owner and isinstance(parent, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        owner, _, local = owner.rpartition('.')
        parent = model.get_submodule(owner)
    return any(local in names for names in _names_in_methods(type(parent)))


def _names_in_methods(kind: type) -> Iterator[set[str]]:
    """What the methods of a class name, but for its constructor and what it has overridden."""
    seen = {'__init__'}
    for base in kind.__mro__:
        for method, function in vars(base).items():
            code = getattr(getattr(function, '__func__', function), '__code__', None)
            is_own = method not in seen and not base.__module__.startswith('torch.')
            seen.add(method)
            if is_own and isinstance(code, CodeType):
                yield {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
