"""A supernet's switch: runs a model as any of its subnets."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from mmprune.channels.arrangement import Arrangement, places_of
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import Statistic, axes_of, inputs_by_group
from mmprune.channels.sizes import SizeAttribute, size_in
from mmprune.execution.fast_paths import slow_attributes
from mmprune.execution.instrument import (
    STATE,
    instrument,
    instrument_root,
    is_instrumented,
    local_tensors,
)
from mmprune.execution.kept_statistics import KeptElements
from mmprune.execution.lookup import Kept, Lookup
from mmprune.execution.masked_sizes import masked_sizes
from mmprune.execution.mending import Attributes, Mend
from mmprune.execution.places import Places
from mmprune.execution.prunable import PrunableTensor
from mmprune.execution.ready import Ready
from mmprune.execution.swap import Swap
from mmprune.execution.tensor_plan import TensorPlan, cut_in
from mmprune.layers import (
    Cut,
    Layer,
    Slicer,
    like,
    mended_numbers,
    slicer_of,
)
from mmprune.trace.model_state import may_cache, renew_caches
from mmprune.trace.stored import stored
from mmprune.trace.walk import modules_of

Cuts = dict[nn.Module, dict[str, Cut]]
"""Module -> local name -> cut, of the tensors that lose something."""
Mixing = Callable[[torch.Tensor], torch.Tensor]
"""From a parameter to a tensor of its shape."""


class Execution:
    """Runs ``model`` as the subnet of the labels that are alive.

    Args:
        model: The model, whose modules are patched.
        layers: The layers that some subnet changes, by name.
        tensors: The tensors that some subnet changes.
        statistics: The reductions over channels.
        numbers: Stored numbers of modules that are sizes of channels.
        mode: ``'slice'`` or ``'mask'``.
        arrangements: Channels that stand in another order in a subnet.
        quantities: Numbers of modules that are sizes and that quantities are computed from.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        tensors: Sequence[PrunableTensor],
        statistics: Sequence[Statistic],
        numbers: Sequence[SizeAttribute],
        mode: str,
        arrangements: Sequence[Arrangement] = (),
        quantities: Sequence[SizeAttribute] = (),
    ) -> None:
        self.arrangements = arrangements
        self.quantities = quantities
        self.modules = modules_of(model)
        self.places = Places(self.modules)
        self.layers = layers
        self.statistics = statistics
        self.numbers = numbers
        self.mode = mode
        self._arranged = ''
        self._lookup = Lookup()
        self._plans = [self._plan(tensor) for tensor in tensors]
        self._number_sizes = [self._plain_size(number) for number in numbers]
        self._statistic_numbers = [self._lookup.add(s.labels) for s in statistics]
        for tensor in tensors:
            for name in tensor.consumers:
                instrument(self.modules[name])
        read = [s.module for s in statistics]
        read += [number.module for number in (*numbers, *quantities)]
        found = {name: slow_attributes(module) for name, module in self.modules.items()}
        self._slow = {name: values for name, values in found.items() if values and tensors}
        for name in (*layers, *read, *self._slow):
            instrument(self.modules[name])
        if tensors:
            instrument(model)
        self.states = {n: m.__dict__[STATE] for n, m in self.modules.items() if is_instrumented(m)}
        self._ready = Ready([(self.modules[name], state) for name, state in self.states.items()])
        if tensors:
            instrument_root(model, self._ready)
        self._attributes = Attributes(self.modules, self.states)
        slicers = {name: slicer_of(self.modules[name]) for name in layers}
        by_owner = self._plans_by_owner()
        self._mends = [
            self._mend_plan(layers[name], slicer, by_owner)
            for name, slicer in slicers.items()
            if slicer is not None
        ]
        self._lookup.close()
        self._may_cache = [module for module in self.modules.values() if may_cache(module)]

    def _plan(self, tensor: PrunableTensor) -> TensorPlan:
        axes = [axes_of(factor) for factor in tensor.factors]
        dims = [dim for own in axes for dim in own]
        is_plain = all(len(own) == 1 for own in axes) and len(set(dims)) == len(dims)
        numbers = tuple(self._lookup.add(factor) for factor in tensor.factors)
        sides, groups = (-1, -1), 1
        if self.arrangements and set(axes) <= {(0,), (0, 1)} and (0, 1) in axes:
            inputs = inputs_by_group(tensor.factors[axes.index((0, 1))])
            outputs = numbers[axes.index((0,))] if (0,) in axes else -1
            sides, groups = (outputs, self._lookup.add(inputs)), len(inputs)
        return TensorPlan(
            tensor,
            Swap(tensor.owners, tensor.shape, tensor.is_buffer, keeps=not tensor.is_updated),
            numbers,
            tuple(dims) if is_plain else None,
            sides,
            groups,
        )

    def _plain_size(self, number: SizeAttribute) -> int | None:
        """Where to look up the size of a dim whose channels run along it alone."""
        factors = number.size.factors
        is_plain = len(factors) == 1 and axes_of(factors[0]) == (number.size.dim,)
        return self._lookup.add(factors[0]) if is_plain else None

    def _plans_by_owner(self) -> dict[nn.Module, dict[str, TensorPlan]]:
        found: dict[nn.Module, dict[str, TensorPlan]] = {}
        for plan in self._plans:
            for owner, local in plan.swap.owners:
                found.setdefault(owner, {})[local] = plan
        return found

    def _mend_plan(
        self, layer: Layer, slicer: Slicer, by_owner: Mapping[nn.Module, Mapping[str, TensorPlan]]
    ) -> Mend:
        module = self.modules[layer.name]
        shapes = {local: tuple(tensor.shape) for local, tensor in local_tensors(module).items()}
        outputs = None if layer.outputs is None else self._lookup.add(layer.outputs)
        read = layer.inputs if layer.is_computed else None
        inputs = None if read is None else self._lookup.add(read)
        own = by_owner.get(module, {})
        swaps = {local: plan.swap for local, plan in own.items()}
        mend = Mend(layer.name, slicer, swaps, shapes, outputs, inputs, None)
        if any(plan.dims is None for plan in own.values()):
            return mend
        decides = [*mend.sides, *(number for plan in own.values() for number in plan.factors)]
        return replace(mend, decides=tuple(dict.fromkeys(decides)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Execution:
        copied = memo[id(self)] = object.__new__(type(self))
        labels = (self.layers, self.statistics, self.numbers, self.arrangements, self.quantities)
        factors = (plan.tensor.factors for plan in self._plans)
        memo.update((id(shared), shared) for shared in (*labels, self._lookup, *factors))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    @cached_property
    def _alike(self) -> list[list[TensorPlan]]:
        """The tensors, those together that are cut and masked alike: the four of a norm."""
        found: dict[Any, list[TensorPlan]] = {}
        for plan in self._plans:
            key = (plan.tensor.shape, plan.factors, plan.tensor.is_masked, plan.tensor.masked)
            found.setdefault(key, []).append(plan)
        return list(found.values())

    def recompute_alike(self, names: Iterable[str]) -> None:
        """What these modules checkpoint is recomputed on the subnet's tensors too."""
        for name in names:
            if name in self.states:
                self.states[name].recomputes = True

    @property
    def is_current(self) -> bool:
        """Whether the modules still carry the instruments that this switch has put there."""
        return all(self.modules[n].__dict__.get(STATE) is s for n, s in self.states.items())

    @property
    def alone(self) -> AbstractContextManager[Any]:
        """Context in which no other thread runs the network or sets a subnet."""
        return self._ready.alone

    def apply(self, alive: BoolArray) -> None:
        """Run from now on as the subnet whose labels are ``alive``, (num_labels,)."""
        # Tensors made in inference mode could not be used in training later.
        with self.alone, torch.inference_mode(False):
            self._ready.forget()
            if self._arranged != self.mode:
                self._arrange()
            reference = self._reference()
            if self.mode == 'slice' and alive.all():
                self._slice({})
                self._attributes.set(self._slow)
            elif self.mode == 'slice':
                places = places_of(self.arrangements, alive)
                found = self._lookup.at(alive, reference.device, places)
                cuts = self._cuts(found)
                self._slice(cuts)
                self._attributes.set(self._sizes(alive, found, cuts, self._slow))
            else:
                # Masks do not move anything.
                self._mask(self._lookup.at(alive, reference.device), reference)
                self._attributes.set(self._masked_sizes(alive))
            renew_caches(self.modules[''], self._may_cache)

    def mix(self, functions: Mapping[str, Mixing]) -> None:
        """Let slices be taken of what functions make of parameters, by name; of others as they are.

        It shows from the next ``apply`` on. What is deployed are the parameters themselves.
        """
        for plan in self._plans:
            plan.swap.mixing = functions.get(plan.tensor.name)

    def parts(self, alive: BoolArray) -> tuple[Cuts, dict[str, Mapping[str, Any]]]:
        """What the subnet of ``alive`` has of all tensors, and which attributes; nothing is set.

        Returns:
            Module -> local name -> cut, of tensors that lose something; name of a module ->
            attribute -> value, where it is another one than in the full network.
        """
        found = self._lookup.at(
            alive, self._reference().device, places_of(self.arrangements, alive)
        )
        cuts = self._cuts(found)
        by_module: dict[nn.Module, dict[str, Cut]] = {}
        for swap, cut in cuts.items():
            for owner, local in swap.owners:
                by_module.setdefault(owner, {})[local] = cut
        with self._attributes.kept():
            return by_module, self._sizes(alive, found, cuts, {})

    def _reference(self) -> torch.Tensor:
        """One of the tensors, to see where they are and of which type."""
        if not self._plans:
            return torch.empty(0)
        owner, local = self._plans[0].tensor.owners[0]
        found = owner._parameters.get(local, owner._buffers.get(local))
        return torch.empty(0) if found is None else found

    def _arrange(self) -> None:
        """Give every module the swaps of this mode."""
        swaps: dict[str, list[Swap]] = {name: [] for name in self.states}
        for plan in self._plans:
            plan.swap.forget()
            plan.swap.cut, plan.swap.masks = None, ()
            if self.mode == 'slice' or plan.tensor.is_masked:
                for name in plan.tensor.consumers:
                    swaps[name].append(plan.swap)
        for name, state in self.states.items():
            state.arrange(self.modules[name], swaps[name])
        self._arranged = self.mode

    def _cuts(self, found: Kept) -> dict[Swap, Cut]:
        """The cuts of the tensors that lose something."""
        cuts: dict[Swap, Cut] = {}
        for plans in self._alike:
            cut = cut_in(plans[0], found)
            if cut is not None:
                cuts.update((plan.swap, cut) for plan in plans)
        return cuts

    def _slice(self, cuts: Mapping[Swap, Cut]) -> None:
        for plan in self._plans:
            plan.swap.forget()
            plan.swap.cut = cuts.get(plan.swap)
        for state in self.states.values():
            state.is_idle = True
            for swap in state.swaps:
                if swap.cut is not None or swap.mixing is not None:
                    state.is_idle = False
                    break

    def _sizes(
        self,
        alive: BoolArray,
        found: Kept,
        cuts: Mapping[Swap, Cut],
        others: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Mapping[str, Any]]:
        """The attributes of modules that differ from their own in the subnet, and ``others``."""
        wanted = dict(others)
        for mend in self._mends:
            values = mend.values(found, self._attributes, cuts)
            if values:
                other = wanted.get(mend.name)
                wanted[mend.name] = values if other is None else {**other, **values}
        for name, numbers in self._numbers(alive, found).items():
            wanted[name] = {**wanted.get(name, {}), **numbers}
        return wanted

    def _numbers(self, alive: BoolArray, found: Kept) -> dict[str, dict[str, Any]]:
        """The stored numbers of modules that differ in the subnet, as the modules store them."""
        sizes = [
            size_in(number.size, alive) if place is None else found.counts[place]
            for number, place in zip(self.numbers, self._number_sizes, strict=True)
        ]
        return {
            name: {
                key: like(stored(self.modules[name], key), new) for key, (_, new) in changed.items()
            }
            for name, changed in mended_numbers(self.numbers, sizes).items()
        }

    def _masked_sizes(self, alive: BoolArray) -> dict[str, Mapping[str, Any]]:
        """The attributes of masked modules: numbers that are full sizes, and kept quantities."""
        wanted: dict[str, Mapping[str, Any]] = dict(self._slow)
        sizes = [size_in(number.size, alive) for number in self.quantities]
        for name, changed in mended_numbers(self.quantities, sizes).items():
            own = self._attributes.own(name)
            both = {key: masked_sizes(stored(own, key), new) for key, (_, new) in changed.items()}
            wanted[name] = {**wanted.get(name, {}), **both}
        return wanted

    @contextlib.contextmanager
    def keeping_nothing(self) -> Iterator[None]:
        """Context in which no part of a tensor is kept beyond a forward pass."""
        self._ready.is_off = True
        for plan in self._plans:
            plan.swap.keeps = False
        try:
            yield
        finally:
            self._ready.is_off = False
            for plan in self._plans:
                plan.swap.keeps = not plan.tensor.is_updated

    def restore_attributes(self) -> None:
        """Give all modules their own attributes back, until the next ``apply``."""
        self._attributes.set({})

    def _mask(self, found: Kept, reference: torch.Tensor) -> None:
        # New tensors at every switch: a backward pass may still need the ones before.
        numbers = torch.from_numpy(found.flat).to(reference.device, reference.dtype)
        parts = numbers.split(found.sizes)
        whole = set()
        for plans in self._alike:
            first = plans[0]
            if not first.tensor.is_masked:
                continue
            masks = tuple(
                [
                    parts[first.factors[place]].view(first.tensor.factors[place].shape)
                    for place in first.tensor.masked
                ]
            )
            is_whole = all(map(found.is_whole, first.factors))
            for plan in plans:
                plan.swap.forget()
                plan.swap.masks = masks
                if is_whole:
                    whole.add(plan.swap)
        for state in self.states.values():
            state.is_idle = not state.swaps or whole.issuperset(state.swaps)
            state.statistics = []
        for number, statistic in zip(self._statistic_numbers, self.statistics, strict=True):
            state = self.states[statistic.module]
            kept = found.mask(number).reshape(statistic.labels.shape)
            kind, dims, node = statistic.kind, statistic.dims, statistic.node
            elements = KeptElements(kind, dims, torch.from_numpy(kept), node)
            state.statistics.append(elements)
            state.is_idle = state.is_idle and found.is_whole(number)
