"""Take mmprune off a model or its copy, and put it back if a new preparation fails."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from mmprune.execution.instrument import STATE, Instrument, uninstrument
from mmprune.execution.loading import detach_hooks, followers


def release(model: nn.Module) -> None:
    """Take every trace of mmprune off a model: forwards, masks, attributes, hooks."""
    for module in model.modules():
        detach_hooks(module)
        uninstrument(module)


def plain_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a model that has nothing of mmprune.

    What would be taken off again is not copied in the first place: the supernet, its masks and
    switches. Of a module's many empty dicts, its hooks, copies are made here, since ``deepcopy``
    takes long about each.

    Args:
        model: A supernet, or any other model; it stays as it is.
        memo: What ``copy.deepcopy`` is to put in the place of objects, by id.
    """
    for module in model.modules():
        own = vars(module)
        for value in own.values():
            if type(value) in (dict, OrderedDict) and not value:
                memo.setdefault(id(value), type(value)())
        memo.update((id(follower), follower) for follower in followers(module))
        state: Instrument | None = own.get(STATE)
        if state is None:
            continue
        for mask in map(module._buffers.get, state.masks):
            memo[id(mask)] = mask
        memo.update({id(state.swaps): [], id(state.own): {}, id(state.statistics): []})
        if state.original is None:
            memo[id(state)] = replace(state, swaps=[], own={}, statistics=[])
    copied = copy.deepcopy(model, memo)
    release(copied)
    return copied


@contextlib.contextmanager
def replaced_preparation(model: nn.Module) -> Iterator[None]:
    """Release a model and let it be prepared anew; on an error it is as it was before."""
    before: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (live, dict(live))
        for module in model.modules()
        for live in (
            module.__dict__,
            module._buffers,
            module._load_state_dict_pre_hooks,
            module._load_state_dict_post_hooks,
        )
    ]
    try:
        release(model)
        yield
    except BaseException:
        for live, entries in before:
            live.clear()
            live.update(entries)
        raise
