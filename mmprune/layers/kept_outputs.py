"""The kept channels of what a module without tensors gives, such as fixed positions.

Sine positions that are added to a stream of features have as many channels as the stream, but no
tensor that could be cut. In a subnet such a module stands in one that picks of its outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from mmprune.registry import SLICERS
from mmprune.trace.walk import forget_walks, places_of_modules

PLACES = re.compile(r'kept_along_(\d)')
"""Name of the buffer with the numbers of the kept channels, which lie along that dim."""
Outputs = Mapping[str, tuple[int, int]]
"""Module name -> the dim of its output that has the channels, and how many there are."""


class Kept(torch.autograd.Function):
    """Picks of a constant, as a trace sees them: the numbers of what is picked are a leaf."""

    @staticmethod
    def forward(ctx: Any, outputs: torch.Tensor, places: torch.Tensor, dim: int) -> torch.Tensor:
        """The picked channels."""
        ctx.dim = dim
        return outputs.index_select(dim, places.long())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Refused."""
        raise RuntimeError('the graph of a trace is only looked at')


class KeptOutputs(nn.Module):
    """Gives some channels of what a module gives; of all of them it gives just that.

    Args:
        module: It has no parameters, and returns one tensor.
        dim: The dim of the tensor that has the channels.
        size: How many there are.
    """

    module: nn.Module

    def __init__(self, module: nn.Module, dim: int, size: int) -> None:
        super().__init__()
        self.module, self.dim, self.size = module, dim, size
        places = torch.arange(size, dtype=torch.float32)  # a trace follows floats only
        self.register_buffer(f'kept_along_{dim}', places, persistent=False)

    @property
    def places(self) -> torch.Tensor:
        """The numbers of the kept channels."""
        return self._buffers[f'kept_along_{self.dim}']  # type: ignore[return-value]

    @property
    def is_whole(self) -> bool:
        """Whether all channels are kept."""
        return len(self.places) == self.size

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the module gives, as far as it is kept."""
        outputs = self.module(*args, **kwargs)
        if self.places.requires_grad:
            return Kept.apply(outputs, self.places, self.dim)
        return outputs if self.is_whole else outputs.index_select(self.dim, self.places.long())

    def _apply(self, fn: Any, recurse: bool = True) -> KeptOutputs:
        """Moves the numbers along, but leaves them their type: in others they are not exact."""
        places = self.places
        super()._apply(fn, recurse)
        self._buffers[f'kept_along_{self.dim}'] = places.to(self.places.device)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'module':
                raise
            return getattr(super().__getattr__('module'), name)


@SLICERS.register_module(name='KeptOutputs')
def _kept_outputs(module: Any, shapes: Any, channels: int | None) -> dict[str, Any]:
    """Its numbers are those of the full output, in every subnet."""
    return {}


def keep_outputs(model: nn.Module, outputs: Outputs) -> bool:
    """Let modules stand in one that picks of their outputs, if they do not yet; whether any did."""
    named = dict(places_of_modules(model)) if outputs else {}
    made = {
        named[name]: KeptOutputs(named[name], dim, size)
        for name, (dim, size) in outputs.items()
        if name in named
        and not isinstance(named[name], KeptOutputs)
        and not isinstance(named[name.rpartition('.')[0]], KeptOutputs)
    }
    put_back(model, {name: made[module] for name, module in named.items() if module in made})
    return bool(made)


def put_back(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in these places of a model."""
    for name, module in modules.items():
        owner, _, local = name.rpartition('.')
        model.get_submodule(owner)._modules[local] = module
    if modules:
        forget_walks()


def outputs_whole(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of which all outputs are kept after all, in the places where they stood."""
    found = places_of_modules(model)
    return {n: own.module for n, own in found if isinstance(own, KeptOutputs) and own.is_whole}


def outputs_kept(model: nn.Module) -> dict[str, KeptOutputs]:
    """All modules in a model that pick of outputs, by name."""
    return {n: own for n, own in places_of_modules(model) if isinstance(own, KeptOutputs)}


def outputs_to_keep(constants: Iterable[tuple[str, tuple[int, ...]]]) -> Outputs:
    """Modules whose outputs can be picked of, given what constants each has given.

    Channels of images lie along dim 1, those of clips along dim 2, and else along the last one. A
    module that gives more of them now and then is left out.
    """
    found: dict[str, set[tuple[int, int]]] = {}
    for name, shape in constants:
        dim = {4: 1, 5: 2}.get(len(shape), len(shape) - 1)
        found.setdefault(name, set()).add((dim, shape[dim]))
    return {name: own.pop() for name, own in found.items() if len(own) == 1}
