"""Numbers that a module stores, its own or in a config that it holds (``config.hidden_size``)."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from torch import Tensor, nn

_CONFIG = re.compile(r'conf|cfg|args|param|option|setting|namespace', re.IGNORECASE)
_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list})
_DEPTH = 3
"""Names in the longest path: ``config.text.hidden_size``."""


def stored_values(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module stores, by name; what a config that it holds stores, by a path with dots."""
    return _values(module.__dict__, '', _DEPTH)


def _values(fields: dict[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if not isinstance(name, str) or name[:1] == '_' or (prefix and '.' in name):
            continue
        if type(value) in _PLAIN or not _is_config(value):
            yield prefix + name, value
        elif depth > 1:
            yield from _values(_fields(value), f'{prefix}{name}.', depth - 1)


def sequence_like(own: Any, parts: Sequence[Any]) -> Any:
    """These parts in the kind of sequence that ``own`` is, a named tuple too."""
    return own._make(parts) if hasattr(own, '_make') else type(own)(parts)


def stored(module: nn.Module, path: str) -> Any:
    """What a module stores under a name, or a path of names.

    Raises:
        AttributeError: It stores nothing there.
    """
    return reduce(_part, path.split('.'), module) if '.' in path else getattr(module, path)


def store(module: nn.Module, values: Mapping[str, Any]) -> None:
    """Let a module store these values, by name or path.

    Modules share configs, so a module gets one of its own, which holds what the other does.
    """
    if module.__dict__.keys() >= values.keys():
        module.__dict__.update(values)
        return
    copied: dict[tuple[str, ...], Any] = {(): module}
    for path, value in values.items():
        *holders, name = path.split('.')
        for depth in range(1, len(holders) + 1):
            key = tuple(holders[:depth])
            if key not in copied:
                copied[key] = copy.copy(stored(module, '.'.join(key)))
                _fields(copied[key[:-1]])[key[-1]] = copied[key]
        holder = copied[tuple(holders)]
        if holder is module:
            setattr(module, name, value)
        else:
            _fields(holder)[name] = value


def _part(holder: Any, name: str) -> Any:
    if not isinstance(holder, dict):
        return getattr(holder, name)
    if name not in holder:
        raise AttributeError(f'no {name!r} in it')
    return holder[name]


def _fields(holder: Any) -> dict[Any, Any]:
    """The values in a config, or a module, by name."""
    return holder if isinstance(holder, dict) else vars(holder)


def _is_config(value: Any) -> bool:
    """Whether an object is one that holds options and does nothing."""
    if isinstance(value, dict):
        return True
    if isinstance(value, type | nn.Module | Tensor) or not hasattr(value, '__dict__'):
        return False
    return dataclasses.is_dataclass(value) or _CONFIG.search(type(value).__name__) is not None
