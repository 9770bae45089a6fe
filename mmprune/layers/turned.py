"""Cuts of layers whose kept channels stand in another order than in the full network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmprune.layers.cut import Cut, grouped_cut, plain_cut
from mmprune.trace.kinds import NORMS, TRANSPOSED_CONVS


def turned_cuts(
    module: Any, inputs: np.ndarray | None, outputs: np.ndarray | None, groups: int = 1
) -> dict[str, Cut]:
    """The cuts of a layer's tensors, by local name, from the order of its kept channels.

    Args:
        module: A convolution, linear layer or norm. Its tensors are full-size; its attributes may
            be those of a subnet.
        inputs: Kept inputs in the order in which they come; None for all. Norms have none.
        outputs: Kept outputs in the order in which they are read; None for all.
        groups: The full-size number of a convolution's groups.

    Raises:
        ValueError: The channels do not suit the layer's groups.
    """
    found = {}
    flat = ('bias', 'running_mean', 'running_var')
    for name in ('weight', *flat) if isinstance(module, NORMS) else flat:
        tensor = getattr(module, name, None)
        if tensor is not None and outputs is not None:
            found[name] = _along(tensor, [(0, outputs)])
    weight = module._parameters.get('weight')
    if weight is None or isinstance(module, NORMS):
        return found
    rows, columns = outputs, inputs
    if isinstance(module, TRANSPOSED_CONVS):
        rows, columns = inputs, outputs
    if groups == 1:
        found['weight'] = _along(weight, [(0, rows), (1, columns)])
    elif weight.shape[:2] == (groups, 1):
        if not np.array_equal(_numbers(inputs, groups), _numbers(outputs, groups)):
            raise ValueError('it is depthwise, but its inputs and outputs stand in other orders')
        found['weight'] = _along(weight, [(0, rows)])
    elif isinstance(module, TRANSPOSED_CONVS) or 1 in (weight.shape[0] // groups, weight.shape[1]):
        raise ValueError(f'its {groups} groups cannot change places')
    else:
        found['weight'] = grouped_cut(weight.shape, rows, columns, groups)
    return found


def _numbers(kept: np.ndarray | None, raw: int) -> np.ndarray:
    return np.arange(raw) if kept is None else kept


def _along(tensor: torch.Tensor, sides: list[tuple[int, np.ndarray | None]]) -> Cut:
    places = [(dim, torch.from_numpy(kept), len(kept)) for dim, kept in sides if kept is not None]
    return plain_cut(tensor.shape, places)
