"""Masks that a model computes from its features: ``x > 0``, ``~(a & b)``, ``mask[:, None]``.

Autograd knows no bools, so its graph does not show what was chosen by what. In a trace a mask has a
*shadow*, a float tensor of the same numbers that is part of the graph: what arithmetic is given
in its place, and what the results of other functions are joined with, element by element.

So have places that are found for every channel (of maxima, of what is sorted): what is picked by
them, or put there, is of the same channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from mmprune.trace.composites import Composite

COMPARING = frozenset({
    'gt', 'ge', 'lt', 'le', 'eq', 'ne', 'greater', 'greater_equal', 'less', 'less_equal',
    'not_equal', 'and', 'or', 'xor', 'invert', 'logical_and', 'logical_or', 'logical_xor',
    'logical_not', 'bitwise_and', 'bitwise_or', 'bitwise_xor', 'bitwise_not', 'isnan', 'isinf',
    'isfinite', 'signbit',
})  # fmt: skip
MOVING = frozenset({
    'unsqueeze', 'squeeze', 'view', 'view_as', 'reshape', 'expand', 'expand_as', 'permute',
    'transpose', 'flatten', 'unflatten', 'getitem', 'repeat', 'cat', 'stack', 'sum', 'clone',
    'contiguous', 'detach', 'to',
})  # fmt: skip
PICKING = frozenset({'gather', 'take_along_dim'})
CHOOSING = frozenset({'where', 'masked_fill'})
ARITHMETIC = frozenset({
    'to', 'float', 'double', 'half', 'bfloat16', 'type_as', 'mul', 'rmul', 'imul', 'multiply',
    'div', 'rdiv', 'truediv', 'rtruediv', 'divide', 'true_divide', 'add', 'radd', 'iadd', 'sub',
    'rsub', 'isub', 'einsum', 'matmul', 'bmm', 'mm',
})  # fmt: skip

CASTS = frozenset({'float', 'double', 'half', 'bfloat16', 'truediv', '__truediv__', 'div'})
"""They give floats whatever they are given."""


class Compared(Composite):
    """Inputs: tensors, of each of which an element has a say in the one at its place."""


def shadow_of(tensor: Any) -> torch.Tensor | None:
    """The shadow of a mask; None for any other tensor."""
    return getattr(tensor, '_mmprune_shadow', None) if isinstance(tensor, torch.Tensor) else None


def _by_shadows(value: Any) -> Any:
    def instead(leaf: Any) -> Any:
        shadow = shadow_of(leaf)
        return leaf if shadow is None else shadow

    return tree_map(instead, value)


def as_called(name: str, function: Any, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
    """What a trace calls where a model calls ``function`` with a mask: by its shadow, if it can."""
    if name.strip('_') in ARITHMETIC and _gives_floats(name, args, kwargs):
        return function, _by_shadows(args), _by_shadows(kwargs)
    if 'max_unpool' in name and len(args) > 1 and shadow_of(args[1]) is not None:
        return function, (_joined(args[0], args[0], shadow_of(args[1])), *args[1:]), kwargs
    if name == '__setitem__' and shadow_of(args[1]) is not None:
        is_number = not isinstance(args[2], torch.Tensor) or args[2].dim() == 0
        if is_number and args[1].shape == args[0].shape:
            return torch.Tensor.masked_fill_, args, kwargs
    return function, args, kwargs


def _gives_floats(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether the result of arithmetic is floats: what is given bools alone may give bools."""
    return name in CASTS or any(
        isinstance(leaf, float)
        or (isinstance(leaf, torch.dtype) and leaf.is_floating_point)
        or (isinstance(leaf, torch.Tensor) and leaf.is_floating_point())
        for leaf in tree_leaves((args, kwargs))
    )


def followed(
    name: str,
    function: Callable[..., Any],
    args: tuple,
    kwargs: Mapping[str, Any],
    given: list[torch.Tensor],
    masks: list[torch.Tensor],
    result: Any,
) -> Any:
    """The result of a call that makes a mask or was given some, as part of the graph.

    Args:
        name: The name of the function.
        function: What was called.
        args: What it was given.
        kwargs: What it was given by name.
        given: The tensors in both.
        masks: Those of them that have shadows.
        result: What it has returned.

    Returns:
        It, or None where the graph cannot show what the call does with a mask.
    """
    if not isinstance(result, torch.Tensor):
        _note_places(result)
        return None
    name = name.strip('_')
    shadows = [shadow for shadow in map(shadow_of, masks) if shadow is not None]
    if name in COMPARING and result.dtype is torch.bool:
        sources = shadows + [tensor for tensor in given if tensor.requires_grad]
        if sources:
            value = result.to(sources[0].dtype)
            _give_shadow(result, Compared.apply({}, (value,), *sources))
            return result
    elif shadows and 'max_unpool' in name:
        return result
    elif shadows and name in PICKING and result.shape == shadows[0].shape:
        return _joined(result, result, shadows[0])
    elif shadows and name in CHOOSING and result.is_floating_point():
        if any(result is tensor for tensor in given):
            return result.add_(Compared.apply({}, (torch.zeros_like(result.detach()),), *shadows))
        parts = [result] if result.requires_grad else []
        return Compared.apply({}, (result.detach(),), *parts, *shadows)
    elif shadows and name in MOVING and not (name == 'getitem' and _has_masks(args[1])):
        moved = function(*_by_shadows(args), **_by_shadows(dict(kwargs)))
        if moved.requires_grad:
            _give_shadow(result, moved)
            return result
    return None


def _note_places(result: Any) -> None:
    """Give the places of values the values for a shadow."""
    values, places = result if isinstance(result, tuple) and len(result) == 2 else (None, None)
    if not (isinstance(values, torch.Tensor) and isinstance(places, torch.Tensor)):
        return
    if values.requires_grad and places.dtype is torch.int64 and places.shape == values.shape:
        _give_shadow(places, values)


def _joined(data: torch.Tensor, *sources: torch.Tensor | None) -> torch.Tensor:
    """The same numbers, as made from these tensors element by element."""
    result: torch.Tensor = Compared.apply({}, (data.detach(),), *sources)
    return result


def _has_masks(index: Any) -> bool:
    return any(shadow_of(leaf) is not None for leaf in tree_leaves(index))


def _give_shadow(mask: torch.Tensor, shadow: torch.Tensor) -> None:
    mask._mmprune_shadow = shadow  # type: ignore[attr-defined]
