"""Patch a model's modules so that they can run as any of its subnets."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, NoReturn

import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, Statistic, kept
from mmprune.channels.propagate import Labelling
from mmprune.channels.sizes import SizeAttribute
from mmprune.execution.kept_statistics import KeptDim, KeptStatistics
from mmprune.execution.swap import Multiply, Shelter, Swap
from mmprune.layers import Layer, cut_of_masks, like, mended_attributes, mended_numbers
from mmprune.trace import TraceGraph
from mmprune.trace.model_state import may_cache, renew_caches

STATE = '_mmprune'
"""Name of the attribute that an instrumented module carries."""


@dataclass
class Instrument:
    """What mmprune keeps on one module; copied along when the module is.

    Attributes:
        original: The forward that stood on the instance itself, if any.
        swaps: Tensors to replace during this module's forward.
        attributes: The module's own values of attributes that are mended now.
        statistics: The channels that its norms and reductions see, if not all of them.
        masks: Names of the mask buffers that mmprune has registered on the module.
    """

    original: Callable[..., Any] | None = None
    swaps: list[Swap] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    statistics: list[KeptDim] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> Instrument:
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        # A patched forward is bound to its module, and pickle would bring back the full one.
        raise pickle.PicklingError(
            'a supernet cannot be pickled: save its state_dict() and prepare the network again, '
            'or pickle the network that deploy_subnet returns'
        )


def is_instrumented(module: nn.Module) -> bool:
    """Whether the module itself carries mmprune's state."""
    return STATE in module.__dict__


@contextlib.contextmanager
def _swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    """Swap the subnet's tensors in."""
    entered = []
    try:
        for swap in swaps:
            swap.enter()
            entered.append(swap)
        yield
    finally:
        for swap in reversed(entered):
            swap.leave()


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The patched forward: the module's own one, on the subnet's tensors."""
    state: Instrument = self.__dict__[STATE]
    run = state.original or MethodType(type(self).forward, self)
    if not state.swaps and not state.statistics:
        return run(*args, **kwargs)
    statistics = state.statistics
    norm = KeptStatistics(statistics) if statistics else contextlib.nullcontext()
    with _swapped(state.swaps), norm:
        return run(*args, **kwargs)


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    """The patched ``train`` of a module that may compute something from its weights in it."""
    with _swapped(self.__dict__[STATE].swaps):
        return type(self).train(self, mode)


_forward.__name__ = 'forward'
_train.__name__ = 'train'


def instrument(module: nn.Module) -> Instrument:
    """The module's instrument, made and its forward patched on first use."""
    if not is_instrumented(module):
        module.__dict__[STATE] = Instrument(module.__dict__.get('forward'))
        module.__dict__['forward'] = MethodType(_forward, module)
        if may_cache(module) and 'train' not in module.__dict__:
            module.__dict__['train'] = MethodType(_train, module)
    return module.__dict__[STATE]


def uninstrument(module: nn.Module) -> None:
    """Take the instrument of a module away; its masks, attributes and methods are as before."""
    state: Instrument | None = module.__dict__.pop(STATE, None)
    if state is None:
        return
    for name in ('forward', 'train'):
        if getattr(module.__dict__.get(name), '__func__', None) in (_forward, _train):
            del module.__dict__[name]
    if state.original is not None:
        module.__dict__['forward'] = state.original
    for name, value in state.attributes.items():
        setattr(module, name, value)
    for name in state.masks:
        del module._buffers[name]


@dataclass(frozen=True)
class PrunableTensor:
    """A parameter or buffer that loses something in some subnet.

    Attributes:
        name: Its first dotted name.
        shape: Its full shape.
        factors: Its label arrays.
        owners: (module, local name) of every place that holds it.
        is_buffer: Whether it is a buffer.
        consumers: Names of the modules whose forward reads it.
    """

    name: str
    shape: tuple[int, ...]
    factors: list[IntArray]
    owners: list[tuple[nn.Module, str]]
    is_buffer: bool
    consumers: list[str]


def prunable_tensors(
    model: nn.Module, graph: TraceGraph, labelling: Labelling, prunable: BoolArray
) -> list[PrunableTensor]:
    """The tensors of ``model`` that have a prunable label, (num_labels,) bool."""
    modules = dict(model.named_modules(remove_duplicate=False))
    buffers = {name for name, _ in model.named_buffers()}
    consumers = graph.consumers()
    found = []
    for name, factors in labelling.tensors.items():
        if any(prunable[factor[factor >= 0]].any() for factor in factors):
            places = [place.rpartition('.') for place in graph.aliases.get(name, (name,))]
            found.append(
                PrunableTensor(
                    name=name,
                    shape=labelling.shapes[name],
                    factors=factors,
                    owners=[(modules[owner], local) for owner, _, local in places],
                    is_buffer=name in buffers,
                    consumers=consumers[name],
                )
            )
    return found


def prunable_statistics(labelling: Labelling, prunable: BoolArray) -> list[Statistic]:
    """The reductions over channels some of which a subnet may drop."""
    return [
        statistic
        for statistic in labelling.statistics
        if prunable[statistic.labels[statistic.labels >= 0]].any()
    ]


class Execution:
    """A supernet's switch: runs ``model`` as the subnet of the labels that are alive."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        tensors: list[PrunableTensor],
        statistics: Sequence[Statistic],
        numbers: Sequence[SizeAttribute],
        mode: str,
    ) -> None:
        self.modules = dict(model.named_modules())
        self.layers = layers
        self.tensors = tensors
        self.statistics = statistics
        self.numbers = numbers
        self.mode = mode
        for tensor in tensors:
            for name in tensor.consumers:
                instrument(self.modules[name])
        read = [*(s.module for s in statistics), *(number.module for number in numbers)]
        for name in (*layers, *read):
            instrument(self.modules[name])
        self.states = {n: m.__dict__[STATE] for n, m in self.modules.items() if is_instrumented(m)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Execution:
        copied = object.__new__(type(self))
        copied.__dict__ = {
            **self.__dict__,
            'modules': copy.deepcopy(self.modules, memo),
            'states': copy.deepcopy(self.states, memo),
            'tensors': [
                replace(tensor, owners=copy.deepcopy(tensor.owners, memo))
                for tensor in self.tensors
            ],
        }
        return copied

    @property
    def is_current(self) -> bool:
        """Whether the modules still carry the instruments that this switch has put there."""
        return all(self.modules[n].__dict__.get(STATE) is s for n, s in self.states.items())

    def apply(self, alive: BoolArray) -> None:
        """Run from now on as the subnet whose labels are ``alive``, (num_labels,)."""
        for name, state in self.states.items():
            state.swaps, state.statistics = [], []
            for attribute, value in state.attributes.items():
                setattr(self.modules[name], attribute, value)
            state.attributes = {}
        # Tensors made in inference mode could not be used in training later.
        with torch.inference_mode(False):
            if self.mode == 'slice':
                self._slice(alive)
            else:
                self._mask(alive)
            renew_caches(self.modules[''])

    def _slice(self, alive: BoolArray) -> None:
        shapes: dict[tuple[nn.Module, str], tuple[int, ...]] = {}
        for tensor in self.tensors:
            cut = cut_of_masks(tensor.shape, [kept(alive, f) for f in tensor.factors])
            shapes.update((place, cut.shape) for place in tensor.owners)
            if not cut.is_whole:
                swap = Swap(tensor.owners, cut, tensor.is_buffer)
                for name in tensor.consumers:
                    self.states[name].swaps.append(swap)
        for name, layer in self.layers.items():
            module = self.modules[name]
            own = {
                local: shapes.get((module, local), tuple(tensor.shape))
                for local, tensor in local_tensors(module).items()
            }
            outputs = layer.outputs
            channels = None if outputs is None else int(kept(alive, outputs).sum())
            self._mend(name, mended_attributes(module, own, channels))
        for name, changed in mended_numbers(self.numbers, alive).items():
            module = self.modules[name]
            values = {key: like(getattr(module, key), new) for key, (_, new) in changed.items()}
            self._mend(name, values)

    def _mend(self, name: str, values: Mapping[str, Any]) -> None:
        """Set attributes of a module for now; its own are kept."""
        for attribute, value in values.items():
            self.states[name].attributes[attribute] = getattr(self.modules[name], attribute)
            setattr(self.modules[name], attribute, value)

    def _mask(self, alive: BoolArray) -> None:
        for tensor in self.tensors:
            masks = [kept(alive, factor) for factor in tensor.factors]
            dropping = tuple(torch.from_numpy(mask) for mask in masks if not mask.all())
            if dropping:
                transform = Shelter(dropping) if tensor.is_buffer else Multiply(dropping)
                swap = Swap(tensor.owners, transform, tensor.is_buffer)
                for name in tensor.consumers:
                    self.states[name].swaps.append(swap)
        for statistic in self.statistics:
            mask = kept(alive, statistic.labels)
            if not mask.all():
                dim = KeptDim(statistic.kind, statistic.dim, statistic.rank, torch.from_numpy(mask))
                self.states[statistic.module].statistics.append(dim)


def local_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's own parameters and buffers, masks left out."""
    own = {**module._parameters, **module._buffers}
    masks = module.__dict__[STATE].masks if is_instrumented(module) else ()
    return {n: tensor for n, tensor in own.items() if tensor is not None and n not in masks}
