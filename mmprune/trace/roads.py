"""The roads that a user takes through a network: in eval mode, in training, to its loss."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from mmprune.errors import InputError
from mmprune.registry import DEMO_INPUTS, table
from mmprune.trace.in_double import in_double
from mmprune.trace.walk import forget_walks
from mmprune.trace.walking import walking

DemoInput = torch.Tensor | tuple | list | Mapping | Callable[[nn.Module], Any]
DEMO_INPUTS_ARE = 'a tensor, a tuple of arguments, a dict of keywords or a callable(model)'
Pack = Callable[[nn.Module, Any], DemoInput]
"""From a model and the input of a road to what the model is called with."""


@dataclass(frozen=True)
class Road:
    """One way through a network.

    Attributes:
        name: For reports.
        input: A tensor, a tuple of arguments, a dict of keywords, or ``callable(model)``.
        training: Whether the model is in training mode on it.
        pack: Makes what the model is called with from ``input``; None to call it with ``input``.
    """

    name: str
    input: DemoInput
    training: bool = False
    pack: Pack | None = None

    @walking()
    def run(self, model: nn.Module, demo_input: DemoInput | None = None) -> Any:
        """What ``model``, whose mode is the caller's, gives on this road, late in training.

        On float64 images what else code makes in float32 is float64 as well, if the road packs or
        ``DEMO_INPUTS`` knows the model.
        """
        given = self.input if demo_input is None else demo_input
        is_double = isinstance(given, torch.Tensor) and given.dtype is torch.float64
        is_known = is_double and (self.pack is not None or packer_of(model) is not None)
        try:
            with in_double() if is_known else contextlib.nullcontext(), _late_in_training():
                return run_model(model, given if self.pack is None else self.pack(model, given))
        finally:
            forget_walks()

    @property
    def images(self) -> torch.Tensor:
        """The input of a road that has one tensor."""
        assert isinstance(self.input, torch.Tensor), describe_input(self.input)
        return self.input

    def mapped(self, function: Callable[[Any], Any]) -> Road:
        """The same road on other leaves of its input; a callable stays as it is."""
        if not isinstance(self.input, torch.Tensor | tuple | list | Mapping):
            return self
        return replace(self, input=tree_map(function, self.input))


@contextlib.contextmanager
def _late_in_training() -> Iterator[None]:
    """Context in which heads that ask mmengine how far training is are told: all but over."""
    if 'mmengine.logging' not in sys.modules:
        yield
        return
    from mmengine.logging import MessageHub

    told = MessageHub.get_current_instance().runtime_info
    missing = [name for name in ('epoch', 'iter') if name not in told]
    told.update(dict.fromkeys(missing, 10**6))
    try:
        yield
    finally:
        for name in missing:
            told.pop(name, None)


class OnRoad(nn.Module):
    """A model that is called with the input of a road alone, which makes the rest of it."""

    def __init__(self, model: nn.Module, road: Road) -> None:
        super().__init__()
        self.model, self.road = model, road

    @classmethod
    def of(cls, model: nn.Module, road: Road) -> nn.Module:
        """The model itself where the road adds nothing."""
        return model if road.pack is None else cls(model, road)

    def forward(self, given: Any) -> Any:
        """What the model gives on the road."""
        return self.road.run(self.model, given)


def run_model(model: nn.Module, demo_input: DemoInput) -> Any:
    """Call ``model`` on a tensor, a tuple of arguments, a dict of keywords, or by a callable."""
    if isinstance(demo_input, torch.Tensor):
        return model(demo_input)
    if isinstance(demo_input, tuple | list):
        return model(*demo_input)
    if isinstance(demo_input, Mapping):
        return model(**demo_input)
    if callable(demo_input):
        return demo_input(model)
    raise TypeError(f'expected {DEMO_INPUTS_ARE}, found {type(demo_input).__name__}')


def describe_input(demo_input: DemoInput) -> str:
    """Shapes of a demo input, for messages."""
    if callable(demo_input) and not isinstance(demo_input, torch.Tensor):
        return 'the given callable'
    tensors = [x for x in tree_leaves(demo_input) if isinstance(x, torch.Tensor)]
    shapes = ', '.join(f'{"x".join(map(str, x.shape))} {x.dtype}' for x in tensors)
    return f'a demo input of {shapes or "no tensor"}'


def is_list_of_roads(demo_input: Any) -> bool:
    """Whether a demo input is a list of roads, not of arguments: a road or callable is in it."""
    return isinstance(demo_input, list) and any(
        isinstance(item, Road) or (callable(item) and not isinstance(item, torch.Tensor))
        for item in demo_input
    )


def roads_of(model: nn.Module, demo_input: Any) -> tuple[Road, ...]:
    """The roads that a demo input stands for; the first one is what subnets cost.

    A tensor, tuple, dict or callable is walked in eval mode and in training. The loss of a model
    whose forward has mmengine's modes is a third road. What such a model is called with is made
    of a tensor of images by what ``DEMO_INPUTS`` has for its class, if anything. A list that
    holds a ``Road`` or a callable is a list of roads: each ``Road`` is walked as it says,
    everything else in both modes. Other lists are arguments, as tuples are.

    Raises:
        InputError: Two roads of a list have one name.
    """
    if isinstance(demo_input, Road):
        return (demo_input,)
    if not is_list_of_roads(demo_input):
        return packed_roads(model, demo_input)
    found: list[Road] = []
    for number, item in enumerate(demo_input):
        suffix = f' {number + 1}' if number else ''
        found += [item] if isinstance(item, Road) else _both_modes(item, suffix)
    names = [road.name for road in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"demo_input: two roads are named '{twice[0]}': give each its own name")
    return tuple(found)


def packed_roads(
    model: nn.Module, demo_input: DemoInput, packer: Callable[..., Any] | None = None
) -> tuple[Road, ...]:
    """Eval mode, training and, for a model that has mmengine's modes, the loss, on one input.

    Args:
        model: The model.
        demo_input: A tensor, tuple, dict or callable.
        packer: See ``mmprune.models.demo_inputs``; what ``DEMO_INPUTS`` has for the class of the
            model or the nearest of its bases if None.
    """
    packer = packer or packer_of(model)
    if not isinstance(demo_input, torch.Tensor) or packer is None:
        return (*_both_modes(demo_input, ''), *_loss_road(model, demo_input))
    plain, loss = partial(packer, mode='tensor'), partial(packer, mode='loss')
    pack = None if plain(model, demo_input) is None else plain
    roads = _both_modes(demo_input, '', pack)
    try:
        is_known = loss(model, demo_input) is not None
    except Exception:  # whatever code that makes targets raises is told when the road is walked
        is_known = True
    if is_known:
        return (*roads, Road('loss', demo_input, training=True, pack=loss))
    return (*roads, *_loss_road(model, demo_input))


def packer_of(model: nn.Module) -> Callable[..., Any] | None:
    """What ``DEMO_INPUTS`` has for the class of a model, or for the nearest of its bases."""
    # Our own are for models of mmengine, which need no import where there is none.
    known = table(DEMO_INPUTS) if 'mmengine.model' in sys.modules else DEMO_INPUTS.module_dict
    return next((known[k.__name__] for k in type(model).__mro__ if k.__name__ in known), None)


def as_road(demo_input: Any) -> Road:
    """A road as it is; anything else as the input of one in eval mode."""
    return demo_input if isinstance(demo_input, Road) else Road('eval', demo_input)


def on_other_numbers(road: Road) -> Road | None:
    """The same road on an input of other floats; None for a callable."""
    if not isinstance(road.input, torch.Tensor | tuple | list | Mapping):
        return None
    generator = torch.Generator().manual_seed(2)

    def other(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return noise.to(value) + value / 2

    return road.mapped(other)


def doubled(road: Road) -> Road | None:
    """The same road on twice as large a batch, whose second half differs; None for a callable."""
    other = on_other_numbers(road)
    if other is None:
        return None

    def both(first: Any, second: Any) -> Any:
        has_batch = isinstance(first, torch.Tensor) and first.dim() > 0
        return torch.cat([first, second]) if has_batch else first

    return replace(road, input=tree_map(both, road.input, other.input))


def _both_modes(demo_input: DemoInput, suffix: str, pack: Pack | None = None) -> list[Road]:
    return [
        Road(f'eval{suffix}', demo_input, pack=pack),
        Road(f'train{suffix}', demo_input, training=True, pack=pack),
    ]


def _loss_road(model: nn.Module, demo_input: DemoInput) -> list[Road]:
    """The road to the loss, from the demo input alone, of a model that has mmengine's modes."""
    mode = inspect.signature(type(model).forward).parameters.get('mode')
    if mode is None or mode.default != 'tensor':
        return []
    if callable(demo_input) and not isinstance(demo_input, torch.Tensor):
        return []
    return [Road('loss', demo_input, training=True, pack=_in_mode_loss)]


def _in_mode_loss(model: nn.Module, demo_input: Any) -> Mapping[str, Any]:
    """The demo input as it is, for a loss that needs nothing else."""
    if isinstance(demo_input, Mapping):
        return {**demo_input, 'mode': 'loss'}
    arguments = demo_input if isinstance(demo_input, tuple | list) else (demo_input,)
    _, *names = inspect.signature(type(model).forward).parameters
    return {**dict(zip(names, arguments, strict=False)), 'mode': 'loss'}
