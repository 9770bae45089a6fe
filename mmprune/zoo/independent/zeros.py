"""Zeros in the place of what a channel config removes."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mmprune.zoo.independent.norms import norm_over_channels

_GIVEN = re.compile(r'kept_along_(\d)')
"""What a channel config calls the channels of a module's output, if it has no parameters."""


def zeroed(original: nn.Module, channel_cfg: Mapping[str, Any]) -> nn.Module:
    """A full-size copy of ``original`` in which removed channels neither say nor hear anything.

    Args:
        original: The plain network, never prepared by a pruner.
        channel_cfg: The entries of a channel config, by layer.

    Returns:
        A network whose output is that of the deployed one.
    """
    network = copy.deepcopy(original)
    with torch.no_grad():
        for name, entry in channel_cfg.items():
            if not name.startswith('__'):
                _silence(network, name, entry)
    return recomputed(network)


def recomputed(network: nn.Module) -> nn.Module:
    """``network``, what its modules have computed from weights for eval mode computed anew.

    LeViT and its relatives do that to their attention biases when the mode is set.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.train().eval()
    for module, mode in modes:
        module.training = mode
    return network


def kept_channels(entry: Mapping[str, Any], side: str) -> torch.Tensor | None:
    """Numbers of the kept ``in`` or ``out`` channels of an entry; None if it does not say."""
    if f'{side}_channels' not in entry:
        return None
    return _numbers(entry[f'{side}_channels'], entry.get(f'{side}_index'))


def _numbers(count: int, index: list[int] | None) -> torch.Tensor:
    return torch.arange(count) if index is None else torch.tensor(index)


def _dropped(kept: torch.Tensor, raw: int) -> torch.Tensor:
    """The numbers below ``raw`` that are not in ``kept``."""
    return torch.tensor(sorted(set(range(raw)) - set(kept.tolist())), dtype=torch.long)


def _silence(network: nn.Module, name: str, entry: Mapping[str, Any]) -> None:
    """Zero what one entry removes, or replace the norm that it is about."""
    module = network.get_submodule(name)
    inputs, outputs = kept_channels(entry, 'in'), kept_channels(entry, 'out')
    replacement = _replacement(module, entry, outputs)
    if replacement is not None:
        put_in_place(network, module, replacement)
        return
    if outputs is not None:
        _zero_outputs(module, _dropped(outputs, entry['raw_out_channels']))
    if inputs is not None:
        _zero_inputs(module, _dropped(inputs, entry['raw_in_channels']))
    for local, parts in entry.get('tensors', {}).items():
        for key, part in parts.items():
            given = _GIVEN.fullmatch(local)
            if given:
                dropped = _dropped(_numbers(part['kept'], part.get('index')), part['raw'])
                module.register_forward_hook(partial(_zero_given, int(given[1]), dropped))
            else:
                _zero_positions(getattr(module, local), str(key), part)
    if isinstance(module, nn.MultiheadAttention) and module.num_heads == 1:
        _scale_queries(module, entry.get('tensors', {}))


def _zero_given(
    dim: int, dropped: torch.Tensor, module: nn.Module, args: Any, output: torch.Tensor
) -> torch.Tensor:
    """Zeros among the channels of a constant, such as sines of places."""
    return output.index_fill(dim, dropped, 0)


def _scale_queries(attention: nn.MultiheadAttention, tensors: Mapping[str, Any]) -> None:
    """Torch divides by the root of the head's width, which is that of what is left of it."""
    width = attention.embed_dim
    for local in ('in_proj_weight', 'q_proj_weight'):
        part = tensors.get(local, {}).get('0')
        if part is not None:
            kept = int((_numbers(part['kept'], part.get('index')) < width).sum())
            for each in (getattr(attention, local), attention.in_proj_bias):
                if each is not None:
                    each[:width] *= math.sqrt(width / kept)


def _replacement(
    module: nn.Module, entry: Mapping[str, Any], outputs: torch.Tensor | None
) -> nn.Module | None:
    """What is put in the place of a norm over channels; None if ``module`` is none that changes."""
    found = norm_over_channels(module)
    if found is None:
        return None
    parameter, make = found
    part = entry.get('tensors', {}).get(parameter, {}).get('0')
    if outputs is None and part is not None:
        outputs = _numbers(part['kept'], part.get('index'))
    return None if outputs is None else make(module, outputs)


def put_in_place(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace ``old`` by ``new`` wherever ``network`` has it."""
    for parent in list(network.modules()):
        for local, child in list(parent.named_children()):
            if child is old and parent is not new:
                setattr(parent, local, new)


def _zero_outputs(module: Any, dropped: torch.Tensor) -> None:
    """A removed output, or a removed channel of a batch norm, is 0."""
    weight, bias = module.weight, module.bias
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        per_group = weight.shape[1]
        rows = weight.shape[0] // module.groups
        for channel in dropped.tolist():
            group = channel // per_group
            weight[group * rows : (group + 1) * rows, channel % per_group] = 0
    elif weight is not None:
        weight[dropped] = 0
    if bias is not None:
        bias[dropped] = 0


def _zero_inputs(module: Any, dropped: torch.Tensor) -> None:
    """A removed input is not read."""
    weight = module.weight
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        weight[dropped] = 0
        return
    groups = getattr(module, 'groups', 1)
    rows, per_group = weight.shape[0] // groups, weight.shape[1]
    for channel in dropped.tolist():
        group = channel // per_group
        weight[group * rows : (group + 1) * rows, channel % per_group] = 0


def _zero_positions(tensor: torch.Tensor, key: str, part: Mapping[str, Any]) -> None:
    """Zero what ``part`` removes along the dims of ``key``, which are numbered as one."""
    dims = [int(dim) for dim in key.split(',')]
    moved = tensor.movedim(dims, list(range(len(dims))))
    sizes = moved.shape[: len(dims)]
    for number in _dropped(_numbers(part['kept'], part.get('index')), part['raw']).tolist():
        place = []
        for size in reversed(sizes):
            number, position = divmod(number, size)
            place.append(position)
        moved[tuple(reversed(place))] = 0
