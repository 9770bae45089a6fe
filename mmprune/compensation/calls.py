"""One call of a linear function or convolution: what it reads and gives, position by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

_LINEAR = ('input', 'weight', 'bias')
_CONV = (*_LINEAR, 'stride', 'padding', 'dilation', 'groups')
_TRANSPOSED = (*_LINEAR, 'stride', 'padding', 'output_padding', 'groups', 'dilation')
_FUNCTIONS: dict[tuple[str, int], tuple[Callable[..., Any], tuple[str, ...]]] = {
    ('linear', 0): (F.linear, _LINEAR),
    **{('conv', rank): (getattr(F, f'conv{rank}d'), _CONV) for rank in (1, 2, 3)},
    **{
        ('transposed', rank): (getattr(F, f'conv_transpose{rank}d'), _TRANSPOSED)
        for rank in (1, 2, 3)
    },
}
"""Kind and rank of a call -> torch's function, and the names of its arguments in their order."""
_KINDS = {function: (kind, names) for (kind, _), (function, names) in _FUNCTIONS.items()}


@dataclass(eq=False)
class LayerCall:
    """The arguments of one call, by torch's own names.

    A *position* is a place at which outputs are given: of the flattened batch and map of a
    convolution, of all dims but the last of a linear function. At every position the outputs
    of a group are a matrix times the *features* there: the inputs of the group, at each place of
    the kernel. A transposed convolution is one over an input with zeros between its numbers.

    Attributes:
        kind: ``'linear'``, ``'conv'`` or ``'transposed'``.
        groups: Number of groups.
    """

    kind: str
    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    output_padding: Any = 0
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; empty for a linear function."""
        return tuple(self.weight.shape[2:])

    def positions(self, output: torch.Size) -> int:
        """At how many positions outputs of a shape are given."""
        dim = -1 if self.kind == 'linear' else -len(self.kernel) - 1
        return output.numel() // max(1, output[dim])

    def outputs_at(self, output: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the call gave at some positions, (positions, outputs)."""
        positions = positions.to(output.device)
        if self.kind == 'linear':
            return output.reshape(-1, output.shape[-1])[positions]
        output = self._batched(output)
        places = torch.unravel_index(positions, (output.shape[0], *output.shape[2:]))
        return output.movedim(1, -1)[places]

    def features_at(self, output: torch.Size, positions: torch.Tensor) -> torch.Tensor:
        """What the call read for some positions, (groups, positions, features of a group).

        Args:
            output: Shape of what the call gives.
            positions: Which, (positions,).
        """
        positions = positions.to(self.input.device)
        if self.kind == 'linear':
            return self.input.reshape(-1, self.input.shape[-1])[positions][None]
        maps = tuple(output[-len(self.kernel) :])
        windows = self._windows(maps)
        places = torch.unravel_index(positions, (windows.shape[0], *maps))
        found = windows[places].flatten(1)
        return found.unflatten(1, (self.groups, -1)).movedim(1, 0)

    def matrix(self) -> torch.Tensor:
        """The weight as (groups, outputs of a group, features of a group)."""
        weight = self.weight.detach()
        if self.kind != 'transposed':
            return weight.flatten(1).unflatten(0, (self.groups, -1))
        turned = weight.flip(tuple(range(2, weight.dim()))) if self.kernel else weight
        return turned.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2)

    def weight_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """The weight that belongs to a matrix, in the weight's own shape."""
        if self.kind != 'transposed':
            return matrix.reshape(self.weight.shape)
        inputs = self.weight.shape[0] // self.groups
        turned = matrix.unflatten(2, (inputs, *self.kernel)).transpose(1, 2).flatten(0, 1)
        return turned.flip(tuple(range(2, turned.dim()))) if self.kernel else turned

    def output_shape(self) -> torch.Size:
        """Shape of what the call gives, without computing it."""
        like = [None if t is None else t.to('meta') for t in (self.input, self.weight, self.bias)]
        function, names = _FUNCTIONS[self.kind, len(self.kernel)]
        rest = [getattr(self, name) for name in names[3:]]
        return torch.Size(function(*like, *rest).shape)

    def _batched(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.dim() == len(self.kernel) + 2 else tensor[None]

    def _windows(self, maps: tuple[int, ...]) -> torch.Tensor:
        """A view of what every output position reads, (N, *maps, C, *kernel)."""
        rank = len(self.kernel)
        stride, dilation = _tuple(self.stride, rank), _tuple(self.dilation, rank)
        value = self._batched(self.input.detach())
        if self.kind == 'transposed':
            padding, extra = _tuple(self.padding, rank), _tuple(self.output_padding, rank)
            edges = [d * (k - 1) for d, k in zip(dilation, self.kernel, strict=True)]
            sizes = [(n - 1) * s + 1 for n, s in zip(value.shape[2:], stride, strict=True)]
            spread = value.new_zeros(*value.shape[:2], *sizes)
            every: tuple[Any, ...] = (..., *[slice(None, None, s) for s in stride])
            spread[every] = value
            pads = [(e - p, e - p + x) for e, p, x in zip(edges, padding, extra, strict=True)]
            value, stride = spread, (1,) * rank
        else:
            pads = _pads(self.padding, self.kernel, dilation)
        if any(side for pair in pads for side in pair):
            value = F.pad(value, [side for pair in reversed(pads) for side in pair])
        steps = value.stride()
        return value.as_strided(
            (value.shape[0], *maps, value.shape[1], *self.kernel),
            (
                steps[0],
                *[own * s for own, s in zip(steps[2:], stride, strict=True)],
                steps[1],
                *[own * d for own, d in zip(steps[2:], dilation, strict=True)],
            ),
        )


def layer_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> LayerCall | None:
    """The call of a function of torch, if it is a linear one or a convolution."""
    try:
        known = _KINDS.get(function)
    except TypeError:  # not hashable
        return None
    if known is None:
        return None
    kind, names = known
    return LayerCall(kind, **{**dict(zip(names, args, strict=False)), **kwargs})


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _pads(
    padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Zeros before and behind each dim of a convolution's map."""
    if padding == 'valid':
        return [(0, 0)] * len(kernel)
    if padding == 'same':
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in _tuple(padding, len(kernel))]


def features_of(weight: torch.Tensor, kind: str, groups: int) -> int:
    """How many unknowns one output of a weight has."""
    if kind == 'transposed':
        return weight.shape[0] // groups * math.prod(weight.shape[2:])
    return math.prod(weight.shape[1:])
