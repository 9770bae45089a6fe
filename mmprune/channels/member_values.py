"""Between the elements of a group's tensors and the group's channels, by array operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.member import Member

Function = Callable[[torch.Tensor], torch.Tensor]
BLOCK = 2**16
"""Elements of a tensor that are worked on together: few enough to stay in a processor's cache."""
_Both = tuple[nn.Parameter, torch.Tensor, torch.Tensor]
_known: ContextVar[dict[Any, _Both] | None] = ContextVar('_known', default=None)


@contextmanager
def shared_sums() -> Iterator[None]:
    """Context in which nobody writes to parameters: each is looked at once for both its sides.

    A weight is a member of two groups, by its outputs and by its inputs. To add up either takes
    less time than to make the numbers that are added up.
    """
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def channel_sums(
    values: torch.Tensor, member: Member, num_channels: int, of: Function = torch.Tensor.double
) -> torch.Tensor:
    """Add up the elements of each channel, or a function of them.

    Args:
        values: A tensor of the full shape of the member's.
        member: Which of its dims hold which channels.
        num_channels: C, the channels of the member's group.
        of: Gives the float64 numbers to add up, of some rows of ``values``, element by element.

    Returns:
        (C,), float64, on the device of the values; 0 for a channel without an element.
    """
    known, plain = _known.get(), values.detach()
    if known is not None and isinstance(values, nn.Parameter) and _has_two_sides(member, values):
        # Held together with its sums, so that no other one gets its id.
        both = known.get((id(values), of)) or (values, *_both_sums(plain, of))
        known[id(values), of] = both
        values = both[1 + member.dims[0]]
    else:
        values = _sums(plain, member.dims, of).flatten()
    if _is_in_order(member, num_channels):
        return values
    index = torch.from_numpy(member.index.copy()).to(values.device).flatten()
    mine = index >= 0
    return values.new_zeros(num_channels).index_add_(0, index[mine], values[mine])


def _sums(values: torch.Tensor, dims: tuple[int, ...], of: Function) -> torch.Tensor:
    """The sums over all other dims than ``dims``, of which at least one is given."""
    if values.numel() <= BLOCK:
        others = tuple([dim for dim in range(values.dim()) if dim not in dims])
        numbers = of(values)
        return numbers.sum(others) if others else numbers
    rows = max(1, BLOCK * len(values) // max(values.numel(), 1))
    before = tuple(range(dims[0]))
    behind = tuple(dim - len(before) for dim in range(dims[0], values.dim()) if dim not in dims)
    if before:
        total = values.new_zeros(values.shape[dims[0] :], dtype=torch.float64)
        for block in values.split(rows):
            total += of(block).flatten(0, dims[0] - 1).sum(0)
        return total.sum(behind) if behind else total
    blocks = map(of, values.split(rows))
    return torch.cat([numbers.sum(behind) if behind else numbers for numbers in blocks])


def _has_two_sides(member: Member, values: torch.Tensor) -> bool:
    """Whether other groups may have the other side of a weight, which is not small."""
    return values.numel() > BLOCK and member.dims in ((0,), (1,)) and min(values.shape[:2]) > 1


def _both_sums(values: torch.Tensor, of: Function) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums over all dims but the first, and over all but the second."""
    rows = max(1, BLOCK * len(values) // max(values.numel(), 1))
    outputs, inputs = [], values.new_zeros(values.shape[1:], dtype=torch.float64)
    for block in values.split(rows):
        numbers = of(block)
        outputs.append(numbers.flatten(1).sum(1))
        inputs += numbers.sum(0)
    return torch.cat(outputs), inputs.reshape(values.shape[1], -1).sum(1)


def _is_in_order(member: Member, num_channels: int) -> bool:
    """Whether the positions of a dim are the channels, in their order."""
    return member.index.shape == (num_channels,) and member.is_in_order


def has_elements(member: Member, num_channels: int) -> np.ndarray:
    """Which channels the tensor has anything of, (C,) bool."""
    index = member.index.ravel()
    if _is_in_order(member, num_channels):
        return np.ones(num_channels, bool)
    return np.bincount(index[index >= 0], minlength=num_channels) > 0


def channel_rows(values: torch.Tensor, member: Member, num_channels: int) -> torch.Tensor:
    """The elements of each channel as one row of a matrix.

    Args:
        values: A tensor of the full shape of the member's.
        member: Which of its dims hold which channels.
        num_channels: C, the channels of the member's group.

    Returns:
        (C, D), float64, on the CPU, with D the elements of the largest channel; shorter
        rows end on zeros.
    """
    front = tuple(range(len(member.dims)))
    moved = values.detach().double().cpu().movedim(member.dims, front)
    flat = moved.reshape(member.index.size, -1)  # position of the dims, everything else
    index = torch.from_numpy(member.index.copy()).flatten()
    order = index.argsort(stable=True)
    order = order[index[order] >= 0]
    channel = index[order]
    counts = channel.bincount(minlength=num_channels)
    # The how-maniest position of its channel each one is.
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[channel]
    longest = int(counts.max()) if len(order) else 0
    rows = torch.zeros(num_channels, longest, flat.shape[1], dtype=torch.float64)
    rows[channel, place] = flat[order]
    return rows.flatten(1)


def spread(per_channel: torch.Tensor, member: Member, rank: int, other: float = 0) -> torch.Tensor:
    """A number per channel, put where the channel's elements are.

    Args:
        per_channel: (C,).
        member: Which dims of a tensor hold which channels.
        rank: Number of dims of that tensor.
        other: What positions of other groups' channels get.

    Returns:
        A tensor of ``rank`` dims that broadcasts with the member's tensor.
    """
    index = torch.from_numpy(member.index.copy()).to(per_channel.device)
    values = torch.where(index >= 0, per_channel[index.clamp(min=0)], other)
    sizes = dict(zip(member.dims, member.index.shape, strict=True))
    return values.reshape([sizes.get(dim, 1) for dim in range(rank)])
