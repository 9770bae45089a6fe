"""A prepared network: groups, layers, masks and the switch that runs its subnets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from mmprune.channels import ChannelGroup, Wishes, build_groups, propagate
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.cost import CostModel, CostTable, memory_of
from mmprune.errors import InputError
from mmprune.execution import (
    Execution,
    FollowLoading,
    MaskBuffers,
    prunable_statistics,
    prunable_tensors,
    release,
    replaced_preparation,
)
from mmprune.layers import Layer, layers_of, stored_numbers, whole_head_modules
from mmprune.pruners.topology import Restriction
from mmprune.pruners.trial import Failure, blame, compare_executions, random_alive
from mmprune.trace import trace
from mmprune.trace.model_state import Contents, untouched
from mmprune.trace.tracer import DemoInput
from mmprune.trace.walk import modules_of

Subnet = dict[str, torch.Tensor]
"""Kept channels of every prunable group: space_id -> 0/1 mask of the group's channels."""


class SubnetError(InputError):
    """A subnet that does not fit the supernet."""


class Supernet:
    """A model whose width can be switched.

    Making one traces the model and patches its modules in place; the weights, the norm
    statistics and everything else that a forward pass reads stay as they are.

    Args:
        model: Any module.
        demo_input: See ``mmprune.trace.trace``.
        wishes: What may be pruned, and how.
        mode: ``'slice'`` or ``'mask'``.
        restriction: Which of the groups that can be pruned are wanted.
    """

    def __init__(
        self,
        model: nn.Module,
        demo_input: DemoInput,
        wishes: Wishes | None = None,
        mode: str = 'slice',
        restriction: Restriction | None = None,
    ) -> None:
        self.model = model
        self.restriction = restriction or Restriction()
        self._demo_input, self._prepared_in = demo_input, _place(model)
        # Tensors made in inference mode could not be written to outside of it.
        with replaced_preparation(model), torch.inference_mode(False):
            # A supernet's modules have the numbers of its subnet until they are released.
            self.wishes = replace(
                wishes or Wishes(),
                numbers=stored_numbers(model),
                whole_heads=whole_head_modules(model),
            )
            self._prepare(mode)
            self.restriction.check(self.groups)

    def _prepare(self, mode: str) -> None:
        """Label, instrument and try; pin what fails, until a random subnet runs."""
        contents: Contents = {}
        self.graph = trace(self.model, self.demo_input, contents)
        kinds = {name: type(module) for name, module in modules_of(self.model).items()}
        broken = self._hold({}, contents, kinds, mode)
        ways = ('own', 'passed', 'inside', 'layers')
        pins = {key: why for key, why in broken.items() if key[1] in ways}
        if pins and len(pins) < len(broken):
            # What was pinned in the end was first made alike to others, which may not be needed.
            release(self.model)
            try:
                self._hold(pins, contents, kinds, mode)
            except SubnetError:
                release(self.model)
                self._hold(broken, contents, kinds, mode)

    def _hold(
        self,
        broken: dict[tuple[str, str], str],
        contents: Contents,
        kinds: Mapping[str, type],
        mode: str,
    ) -> dict[tuple[str, str], str]:
        """Instrument, and hold on to more than ``broken`` until a random subnet runs."""
        broken = dict(broken)
        while True:
            self._instrument(replace(self.wishes, broken=broken), mode)
            failure = self._try(contents)
            if failure is None:
                return broken
            prunable = self._prunable_labels()
            blamed = blame(failure, self.labelling, prunable, kinds, broken)
            if not blamed.keys() - broken.keys():
                raise SubnetError(
                    f'{type(self.model).__name__} cannot be pruned: its subnets fail at module '
                    f"'{failure.module}': {failure.problem}. Pin the layers before it with "
                    'except_start_keys.'
                )
            broken.update(blamed)
            release(self.model)

    def _prunable_labels(self) -> BoolArray:
        prunable = np.zeros(self.size, bool)
        for group in self.prunable_groups.values():
            prunable[group.labels] = True
        return prunable

    def _instrument(self, wishes: Wishes, mode: str) -> None:
        model = self.model
        self.labelling = propagate(self.graph, wishes)
        self.groups = self.restriction.apply(build_groups(self.labelling), model)
        self.size = self.labelling.num_labels
        self.alive = np.ones(self.size, bool)
        prunable = self._prunable_labels()
        self.layers = layers_of(model, self.labelling)
        self.cost_model = CostModel(model, self.labelling)
        touched = {n: layer for n, layer in self.layers.items() if _touches(layer, prunable)}
        tensors = prunable_tensors(model, self.graph, self.labelling, prunable)
        statistics = prunable_statistics(self.labelling, prunable)
        numbers = self.labelling.size_attributes
        arrangements = self.labelling.arrangements
        self.execution = Execution(model, touched, tensors, statistics, numbers, mode, arrangements)
        self.execution.recompute_alike(self.graph.recomputing)
        self.masks = MaskBuffers(model, touched.values(), prunable, self.labelling.tensors)
        FollowLoading(self).attach(model)

    def _try(self, contents: Contents) -> Failure | None:
        """Run a random subnet sliced and masked; full width is set again afterwards."""
        if not self.prunable_groups:
            return None
        mode = self.execution.mode
        alive = random_alive(self.groups, self.size, seed=0)

        def switch(way: str) -> None:
            self.execution.mode = way
            self.execution.apply(alive)

        try:
            with untouched(self.model, contents), self.execution.keeping_nothing():
                try:
                    return compare_executions(
                        self.model,
                        self.demo_input,
                        {way: partial(switch, way) for way in ('slice', 'mask')},
                    )
                finally:
                    self.execution.restore_attributes()
        finally:
            self.execution.mode = mode
            self.execution.apply(self.alive)

    def __deepcopy__(self, memo: dict[int, Any]) -> Supernet:
        """The supernet of a deep copy of the model, which shares the trace with this one."""
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__ = {
            **self.__dict__,
            'model': copy.deepcopy(self.model, memo),
            'execution': copy.deepcopy(self.execution, memo),
            'masks': copy.deepcopy(self.masks, memo),
        }
        return copied

    @property
    def is_current(self) -> bool:
        """Whether the model is still prepared by this supernet, and by no later one."""
        return self.execution.is_current

    @property
    def demo_input(self) -> DemoInput:
        """What the model was traced on, in the type and on the device that the model has now."""
        before, now = self._prepared_in, _place(self.model)

        def follow(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            dtype = now[1] if value.dtype == before[1] else value.dtype
            return value.to(now[0] if value.device == before[0] else value.device, dtype)

        if before == now or not isinstance(self._demo_input, torch.Tensor | tuple | list | Mapping):
            return self._demo_input
        return tree_map(follow, self._demo_input)

    @cached_property
    def cost_table(self) -> CostTable:
        """What subnets cost by the widths of their groups."""
        memory = partial(memory_of, self.model, self.graph, self.labelling, self.wishes)
        return CostTable(self.groups, self.size, self.cost_model, memory)

    @property
    def prunable_groups(self) -> dict[str, ChannelGroup]:
        """The groups that a subnet decides about."""
        return {space_id: group for space_id, group in self.groups.items() if group.prunable}

    def set_alive(self, alive: BoolArray) -> None:
        """Run from now on as the subnet whose labels are ``alive``.

        Raises:
            RuntimeError: The model has been prepared again, by this pruner or another one.
        """
        if not self.is_current:
            raise RuntimeError(
                f'the {type(self.model).__name__} has been prepared again since: use the pruner '
                'that prepared it last'
            )
        try:
            self.execution.apply(alive)
        except BaseException:
            self.execution.apply(self.alive)
            raise
        self.masks.write(alive)
        self.alive = alive

    def refresh(self) -> None:
        """Follow the mask buffers, after a checkpoint was loaded."""
        alive = self.masks.read()
        self.check_alive(alive, 'the masks of the supernet')
        self.execution.apply(alive)
        self.alive = alive

    def check_alive(self, alive: BoolArray, source: str) -> None:
        """Refuse labels that are no valid choice for some group."""
        for group in self.groups.values():
            problem = group.problem_with(alive[group.labels])
            if problem:
                raise SubnetError(f"{source}: group '{group.space_id}' {problem}")

    def alive_of(self, subnet: Mapping[str, torch.Tensor]) -> BoolArray:
        """Which labels a subnet keeps.

        Raises:
            SubnetError: A space_id is missing or unknown, or its mask is not valid.
        """
        groups = self.prunable_groups
        if not isinstance(subnet, Mapping):
            raise SubnetError(f'subnet: expected a dict of masks, not a {type(subnet).__name__}')
        unknown = [space_id for space_id in subnet if space_id not in groups]
        if unknown:
            known = self.groups.get(unknown[0])
            why = f'is pinned ({known.reason})' if known else 'is unknown'
            raise SubnetError(
                f"subnet: space_id '{unknown[0]}' {why} ({len(unknown)} such); the supernet has "
                f'{len(groups)} prunable groups, see pruner.channel_spaces'
            )
        missing = [space_id for space_id in groups if space_id not in subnet]
        if missing:
            raise SubnetError(
                f"subnet: {len(missing)} of {len(groups)} groups are missing, '{missing[0]}' first"
            )
        alive = np.ones(self.size, bool)
        if self._write_at_once(subnet, alive):
            return alive
        for space_id, group in groups.items():
            mask = subnet[space_id]
            if not isinstance(mask, torch.Tensor):
                raise SubnetError(
                    f"subnet: the mask of '{space_id}' is no tensor, but a {type(mask).__name__}"
                )
            values = mask.detach().cpu().numpy().ravel()
            keeps = values.astype(bool)
            if not np.array_equal(values, keeps):
                raise SubnetError(f"subnet: the mask of '{space_id}' has values other than 0 and 1")
            problem = group.problem_with(keeps)
            if problem:
                raise SubnetError(f"subnet: the mask of '{space_id}' {problem}")
            alive[group.labels] = keeps
        return alive

    def _write_at_once(self, subnet: Mapping[str, torch.Tensor], alive: BoolArray) -> bool:
        """Write a subnet in few operations; False if one by one must say what is wrong."""
        masks = [subnet[space_id] for space_id in self.prunable_groups]
        labels, starts, bound = self._decided
        if not masks or not all([isinstance(mask, torch.Tensor) for mask in masks]):
            return False
        kinds = {(mask.dtype, mask.device) for mask in masks}
        sizes = [mask.numel() for mask in masks]
        if len(kinds) > 1 or [0, *accumulate(sizes)] != starts:
            return False
        values = torch.cat([mask.detach().reshape(-1) for mask in masks]).cpu().numpy()
        keeps = values.astype(bool)
        if (
            not np.array_equal(values, keeps)
            or not np.logical_or.reduceat(keeps, starts[:-1]).all()
        ):
            return False
        alive[labels] = keeps
        return not any(group.problem_with(alive[group.labels]) for group in bound)

    @cached_property
    def _decided(self) -> tuple[IntArray, list[int], list[ChannelGroup]]:
        """Labels of the prunable groups end to end, where each begins, those with constraints."""
        groups = list(self.prunable_groups.values())
        starts = [0, *accumulate(group.num_channels for group in groups)]
        bound = [g for g in groups if g.constraints or g.parts or g.arrangement is not None]
        return (
            np.concatenate([group.labels for group in groups] or [np.zeros(0, int)]),
            starts,
            bound,
        )

    def subnet_of(self, alive: BoolArray) -> Subnet:
        """The masks of the groups, in the shapes of ``channel_spaces``."""
        return {
            space_id: torch.from_numpy(alive[group.labels].astype(np.float32)).reshape(
                self.mask_shape(group)
            )
            for space_id, group in self.prunable_groups.items()
        }

    def mask_shape(self, group: ChannelGroup) -> tuple[int, ...]:
        """(1, C, 1, ...) with the rank of the outputs of the layer that makes the channels."""
        ranks = [self.layers[name].mask_rank for name in group.layers if name in self.layers]
        return (1, -1, *(1,) * (max(ranks[0], 2) - 2)) if ranks else (1, -1)


def _touches(layer: Layer, prunable: BoolArray) -> bool:
    arrays = [layer.inputs, layer.outputs, *(f for fs in layer.tensors.values() for f in fs)]
    return any(a is not None and bool(prunable[a[a >= 0]].any()) for a in arrays)


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's numbers are, and of which type."""
    found = (p for p in model.parameters() if p.is_floating_point())
    like = next(found, torch.empty(0))
    return like.device, like.dtype
