"""Take mmprune off a model or its copy, and put it back if a new preparation fails."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmprune.execution.instrument import STATE, Instrument, uninstrument
from mmprune.execution.loading import detach_hooks, followers, stores_of_hooks
from mmprune.layers import outputs_whole, put_back
from mmprune.trace.function_mode import FunctionMode
from mmprune.trace.walk import modules_of

_ATOMS = frozenset({bool, int, float, str, bytes, type(None)})


def release(model: nn.Module) -> None:
    """Take every trace of mmprune off a model: forwards, masks, attributes, hooks."""
    for module in modules_of(model).values():
        detach_hooks(module)
        uninstrument(module)
    put_back(model, outputs_whole(model))


def plain_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a model that has nothing of mmprune.

    What would be taken off again is not copied in the first place: the supernet, its masks and
    switches. Modules are copied here where nothing is special about them: ``deepcopy`` takes ten
    times as long about their many empty dicts.

    Args:
        model: A supernet, or any other model; it stays as it is.
        memo: What ``copy.deepcopy`` is to put in the place of objects, by id.
    """
    modules = [module for module in modules_of(model).values() if id(module) not in memo]
    kinds = {kind for kind in set(map(type, modules)) if _is_copied_by_parts(kind)}
    plain = [module for module in modules if type(module) in kinds]
    memo.update((id(module), type(module).__new__(type(module))) for module in plain)
    for module in modules:
        memo.update((id(follower), follower) for follower in followers(module))
        instrument: Instrument | None = module.__dict__.get(STATE)
        if instrument is None:
            continue
        for mask in map(module._buffers.get, instrument.masks):
            memo[id(mask)] = mask
        parts: tuple[Any, ...] = (instrument.swaps, instrument.own, instrument.statistics)
        memo.update((id(part), type(part)()) for part in parts)
        if instrument.original is None:
            memo[id(instrument)] = replace(
                instrument, swaps=[], own={}, statistics=[], ready=None, parts=None
            )
    with _Detaching():
        copied = _copied_modules(model, plain, memo)
    release(copied)
    return copied


class _Detaching(FunctionMode):
    """Within it, a tensor that a module has kept of a forward pass is copied as a number is."""

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **kwargs)


def _copied_modules(model: nn.Module, plain: list[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """The model's copy; those in ``plain`` have one in ``memo``, still empty."""
    for module in reversed(plain):  # a module that copies itself may look at those in it
        state = {}
        for name, value in module.__getstate__().items():
            kind = type(value)
            if kind in _ATOMS:
                state[name] = value
            elif kind is OrderedDict and not value and id(value) not in memo:  # most are hooks
                state[name] = memo[id(value)] = OrderedDict[Any, Any]()
            else:
                state[name] = _copied(value, memo)
        memo[id(module)].__setstate__(state)
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def _is_copied_by_parts(kind: Any) -> bool:
    """Whether ``deepcopy`` would make a new object of a module, and copy what is in its dict."""
    own = ('__deepcopy__', '__reduce__', '__reduce_ex__', '__getstate__', '__slots__', '__new__')
    return all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in own)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy. Most of a module are numbers, empty dicts of hooks, and what has a copy."""
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value))):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind is OrderedDict and not value:
        memo[id(value)] = copied = OrderedDict[Any, Any]()
        return copied
    if kind in (list, set) and _ATOMS.issuperset(map(type, value)):
        memo[id(value)] = plain = kind(value)
        return plain
    if kind is dict:
        memo[id(value)] = entries = dict[Any, Any]()
        for key, own in value.items():
            name = key if type(key) is str else _copied(key, memo)
            known = memo.get(id(own))
            entries[name] = _copied(own, memo) if known is None else known
        return entries
    return copy.deepcopy(value, memo)


@contextlib.contextmanager
def replaced_preparation(model: nn.Module) -> Iterator[None]:
    """Release a model and let it be prepared anew; on an error it is as it was before."""
    stores: list[dict[Any, Any]] = []
    for module in modules_of(model).values():
        stores += [module.__dict__, module._modules, module._buffers]
        stores += stores_of_hooks(module)
    before = [(live, dict(live)) for live in stores]
    try:
        release(model)
        yield
    except BaseException:
        for live, entries in before:
            live.clear()
            live.update(entries)
        raise
