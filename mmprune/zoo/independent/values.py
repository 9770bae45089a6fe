"""Zeros in the place of the numbers that a pruned network no longer has.

The numbers of a network of the zoo are drawn at random in float64, so no two of a tensor are
equal, and each that a pruned network has left tells where it was. This needs no channel config,
and says the same of a network that another library has pruned.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmprune.zoo.independent.norms import norm_over_channels
from mmprune.zoo.independent.zeros import put_in_place, recomputed


def zeroed_like(original: nn.Module, pruned: nn.Module) -> nn.Module:
    """A full-size copy of ``original`` with zeros for every number that ``pruned`` lacks.

    Args:
        original: The plain network, in float64, with different numbers in every tensor.
        pruned: A network of the same modules with parts of these tensors.

    Returns:
        A network whose output is that of ``pruned``, if that was cut right.

    Raises:
        ValueError: A tensor of ``pruned`` has numbers that ``original`` lacks, or that it has
            several times.
    """
    network = copy.deepcopy(original)
    parts = dict(pruned.named_parameters(remove_duplicate=False))
    modules = dict(network.named_modules())
    with torch.no_grad():
        for name, module in modules.items():
            kept = {}
            for local, whole in module.named_parameters(recurse=False):
                path = f'{name}.{local}' if name else local
                if path not in parts:
                    raise ValueError(f'{path} is missing in the pruned network')
                kept[local] = _kept_positions(path, whole, parts[path])
            found = norm_over_channels(module)
            if found is not None and found[0] in kept:
                numbers = kept[found[0]].flatten().nonzero().flatten()
                put_in_place(network, module, found[1](module, numbers))
                continue
            for local, mask in kept.items():
                getattr(module, local).mul_(mask)
    return recomputed(network)


def _kept_positions(path: str, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Where in ``whole`` the numbers of ``part`` are: a bool tensor of its shape.

    Raises:
        ValueError: They are not there, or one is there several times.
    """
    whole, part = whole.detach(), part.detach()
    if part.shape == whole.shape:
        if not torch.equal(part, whole):
            raise ValueError(f'{path} has other numbers in the pruned network')
        return torch.ones_like(whole, dtype=torch.bool)
    found = _box(whole, part)
    return _scattered(path, whole, part) if found is None else found


def _box(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor | None:
    """The same where some positions of every dim were kept, which takes no sorting of everything.

    The first number of ``part`` is looked up in ``whole``; the lines of ``whole`` through that
    place tell which positions are left of each dim.
    """
    corner = (whole == part.flatten()[0]).nonzero()
    if part.dim() != whole.dim() or len(corner) != 1:
        return None
    mask = torch.ones_like(whole, dtype=torch.bool)
    kept = whole
    for dim in range(whole.dim()):
        line = whole[tuple(slice(None) if d == dim else int(c) for d, c in enumerate(corner[0]))]
        left = part[tuple(slice(None) if d == dim else 0 for d in range(part.dim()))]
        at = torch.isin(line, left)
        mask &= at.reshape([-1 if d == dim else 1 for d in range(whole.dim())])
        kept = kept.index_select(dim, at.nonzero().flatten())
    return mask if torch.equal(kept, part) else None


def _scattered(path: str, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """The same for numbers anywhere in ``whole``, such as other inputs in each group."""
    ordered, order = whole.flatten().sort()
    numbers = part.flatten()
    found = torch.searchsorted(ordered, numbers).clamp(max=len(ordered) - 1)
    if not torch.equal(ordered[found], numbers):
        raise ValueError(f'{path} has numbers in the pruned network that were not in it before')
    mask = torch.zeros_like(ordered, dtype=torch.bool)
    mask[order[found]] = True
    if int(mask.sum()) != part.numel():
        raise ValueError(f'{path} has the same number in several places')
    return mask.reshape(whole.shape)
