"""The copy of a model that has the kept parts of its tensors in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mmprune.collector import collector_waits
from mmprune.execution import local_tensors, plain_copy
from mmprune.layers import Cut, renew_computed_weights
from mmprune.trace.model_state import held_tensors, renew_caches
from mmprune.trace.stored import store
from mmprune.trace.walk import modules_of, walked_once

Cuts = Mapping[nn.Module, Mapping[str, Cut]]
"""Module -> local name -> cut, of the tensors that lose something."""


def deploy_parts(
    model: nn.Module, cuts: Cuts, attributes: Mapping[str, Mapping[str, Any]]
) -> nn.Module:
    """A new plain network with these parts of the tensors of ``model``, which stays as it is.

    Args:
        model: A supernet, or any other model.
        cuts: What stays of its tensors.
        attributes: Attributes of its modules, by name, that have to change with them.
    """
    with collector_waits(), walked_once():
        copied = plain_copy(model, parts_of(model, cuts))
        modules = modules_of(copied) if attributes else {}
        for name, values in attributes.items():
            store(modules[name], values)
        renew_caches(copied)
        renew_computed_weights(copied)
    return copied


def parts_of(
    model: nn.Module, cuts: Cuts, refuse: Callable[[str, str], Exception] | None = None
) -> dict[int, Any]:
    """A deepcopy memo that maps every tensor to its kept part, so nothing is copied whole.

    Args:
        model: The model.
        cuts: What stays of its tensors.
        refuse: Makes an error of a module's name and a problem, where a shared tensor is cut
            differently; None if that cannot be.
    """
    memo: dict[int, Any] = {}
    shapes: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, module in modules_of(model).items():
        own = cuts.get(module, {})
        for local, tensor in local_tensors(module).items():
            cut = own.get(local)
            if refuse is not None:
                new_shape = cut.shape if cut is not None else tuple(tensor.shape)
                place, other = shapes.setdefault(id(tensor), (f'{name}.{local}', new_shape))
                if other != new_shape:
                    raise refuse(
                        name,
                        f'{local} is shared with {place}, but they become {new_shape} and {other}',
                    )
            if id(tensor) not in memo:
                memo[id(tensor)] = _part(tensor, cut)
        # A cached result of an operation is in the way of copying; it is computed anew later.
        memo.update({id(t): t.detach().clone() for t in held_tensors(module) if not t.is_leaf})
    return memo


def _part(tensor: torch.Tensor, cut: Cut | None) -> torch.Tensor:
    with torch.no_grad():
        is_cut = cut is not None and not cut.is_whole
        part = cut(tensor) if cut is not None and is_cut else tensor.detach()
        # What was gathered is new already: copying it again would take its memory twice.
        is_new = is_cut and (not part._is_view() or _is_all_of_another(part, tensor))
        part = part.contiguous() if is_new else part.clone(memory_format=torch.contiguous_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(part, requires_grad=tensor.requires_grad)
    return part


def _is_all_of_another(part: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether a part is all that its storage holds, and that is not the storage of ``tensor``."""
    storage, full = part.untyped_storage(), tensor.untyped_storage()
    return storage.data_ptr() != full.data_ptr() and storage.nbytes() == part.nbytes
