"""A subnet computed a third way: on the full network, from nothing but its channel config.

This is the check of the checkers. It shares no code with mmprune's labels, masks, slices and
cuts: it reads a channel config as plain data, writes zeros into a copy of the original
network, and lets plain torch run that. Only layer and group norms need more than zeros,
since their statistics would count the removed channels; they are computed here by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


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
    if isinstance(module, nn.LayerNorm | nn.GroupNorm) and outputs is not None:
        _replace(network, name, KeptNorm(module, outputs))
        return
    if outputs is not None:
        _zero_outputs(module, _dropped(outputs, entry['raw_out_channels']))
    if inputs is not None:
        _zero_inputs(module, _dropped(inputs, entry['raw_in_channels']))
    for local, parts in entry.get('tensors', {}).items():
        for key, part in parts.items():
            _zero_positions(getattr(module, local), str(key), part)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, local = name.rpartition('.')
    setattr(network.get_submodule(parent), local, module)


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


class KeptNorm(nn.Module):
    """A layer or group norm over some of its channels, the others being 0 afterwards.

    Args:
        norm: The full norm.
        kept: Numbers of the channels that are there, ascending; as many in every group.
    """

    def __init__(self, norm: Any, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm: Any = norm
        self.kept = kept
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None

    def forward(self, data: torch.Tensor, data_format: str | None = None) -> torch.Tensor:
        """Normalise ``data``; ``data_format`` is that of the LN2d of mmcls."""
        dim = 1
        if type(self.norm) is nn.LayerNorm or data_format == 'channel_last':
            dim = data.dim() - 1
        present = data.index_select(dim, self.kept).movedim(dim, 1)
        dims: tuple[int, ...] = (1,)
        shape = present.shape
        if self.groups is not None:
            present = present.unflatten(1, (self.groups, -1))
            dims = tuple(range(2, present.dim()))
        mean = present.mean(dims, keepdim=True)
        deviation = (present.var(dims, keepdim=True, unbiased=False) + self.norm.eps).sqrt()
        result = ((present - mean) / deviation).reshape(shape)
        if self.norm.weight is not None:
            across = (-1, *(1,) * (data.dim() - 2))
            result = result * self.norm.weight[self.kept].reshape(across)
            if self.norm.bias is not None:
                result = result + self.norm.bias[self.kept].reshape(across)
        return torch.zeros_like(data).index_copy(dim, self.kept, result.movedim(1, dim))
