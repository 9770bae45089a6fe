"""The whole numbers that modules store, some of which are sizes of channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from torch import nn

from mmprune.channels.sizes import Numbers, SizeAttribute
from mmprune.layers.slicers import slicer_of
from mmprune.trace.stored import sequence_like, stored_values
from mmprune.trace.walk import modules_of

CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def stored_numbers(model: nn.Module) -> dict[str, Numbers]:
    """Numbers above 1 that the modules of a model keep as attributes, by module name.

    Left out are modules that have a slicer, and torch's own layers, whose attributes are
    known, but for those that no tensor of the module tells.
    """
    found: dict[str, Numbers] = {}
    for name, module in modules_of(model).items():
        untold = _untold(module)
        if untold:
            found[name] = untold
        if _is_told(module):
            continue
        numbers: dict[str, int | tuple[int, ...]] = {}
        for attribute, value in stored_values(module):
            if _is_size(value):
                numbers[attribute] = value
            elif isinstance(value, list | tuple) and value and all(map(_is_number, value)):
                numbers[attribute] = tuple(value)
        if numbers:
            found[name] = numbers
    return found


def may_be_size(module: nn.Module, attribute: str) -> bool:
    """Whether an attribute of a module is one of those among which sizes of channels are."""
    return attribute in _untold(module) or not _is_told(module)


def _is_told(module: nn.Module) -> bool:
    """Whether all sizes that a module stores follow from its tensors and its channels."""
    own_class = type(module)
    is_torchs = own_class.__module__.startswith('torch.') and own_class not in CONTAINERS
    return slicer_of(module) is not None or is_torchs


def _untold(module: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """Sizes of one of torch's modules that neither its weight nor its number of channels tells."""
    if isinstance(module, nn.GroupNorm):
        return {'num_groups': module.num_groups}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is None:
        return {'normalized_shape': tuple(module.normalized_shape)}
    if isinstance(module, nn.Transformer):
        return {'d_model': module.d_model}
    if isinstance(module, nn.Unflatten) and all(map(_is_number, module.unflattened_size)):
        return {'unflattened_size': tuple(module.unflattened_size)}
    return {}


def torchs_attention(model: nn.Module) -> dict[str, int]:
    """Number of heads of torch's own attention modules, by name.

    Several heads lose whole ones, since torch scales by the width of a head.
    """
    modules = modules_of(model).items()
    return {n: m.num_heads for n, m in modules if isinstance(m, nn.MultiheadAttention)}


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: object) -> TypeGuard[int]:
    return _is_number(value) and value > 1


def mended_numbers(
    numbers: Sequence[SizeAttribute], sizes: Iterable[int]
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Module -> attribute -> (full value, value in the subnet), where they differ.

    Several numbers are tuples here, whatever the module keeps them in.

    Args:
        numbers: Numbers of modules that are sizes of dims.
        sizes: The size of each in the subnet.
    """
    values: dict[tuple[str, str], tuple[Any, Any]] = {}
    for number, size in zip(numbers, sizes, strict=True):
        key = (number.module, number.name)
        if number.index is None or not isinstance(number.raw, tuple):
            values[key] = (number.raw, size)
        else:
            _, before = values.get(key, (None, number.raw))
            values[key] = (
                number.raw,
                (*before[: number.index], size, *before[number.index + 1 :]),
            )
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for (module, name), (raw, value) in values.items():
        if value != raw:
            found.setdefault(module, {})[name] = (raw, value)
    return found


def like(own: Any, value: Any) -> Any:
    """``value`` in the kind of sequence that ``own`` is."""
    return sequence_like(own, value) if isinstance(own, list | tuple) else value
