"""A prepared network: groups, layers, masks and the switch that runs its subnets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Labelling, Wishes, build_groups, propagate
from mmprune.channels.checked_sizes import misread
from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, having_any
from mmprune.channels.readings import HOLD
from mmprune.collector import collector_waits
from mmprune.cost import CostModel, CostTable, memory_of
from mmprune.execution import (
    Execution,
    Follow,
    MaskBuffers,
    prunable_statistics,
    prunable_tensors,
    release,
    replaced_preparation,
)
from mmprune.execution.observed_run import observed_run, restored
from mmprune.layers import keep_outputs, layers_of, torchs_attention
from mmprune.layers.layer import with_unread_biases
from mmprune.supernet.replaced import SubnetError, own_numbers, refuse_others
from mmprune.supernet.road_book import RoadBook, place_of, trace_roads
from mmprune.supernet.topology import Restriction
from mmprune.supernet.trial import Failure, blame, compare_executions, random_alive
from mmprune.supernet.unwalked import unwalked_readers
from mmprune.trace import Road
from mmprune.trace.model_state import Contents, untouched
from mmprune.trace.roads import DemoInput, roads_of
from mmprune.trace.walk import modules_of, walked_once
from mmprune.weights import unusable

Subnet = dict[str, torch.Tensor]
"""Kept channels of every prunable group: space_id -> 0/1 mask of the group's channels."""
SUBNETS = 4
"""How many random subnets must have the right sizes."""


class Supernet:
    """A model whose width can be switched.

    Making one traces the model and patches its modules in place; the weights, the norm
    statistics and everything else that a forward pass reads stay as they are.

    Args:
        model: Any module.
        demo_input: See ``mmprune.trace.roads.roads_of``.
        wishes: What may be pruned, and how.
        mode: ``'slice'`` or ``'mask'``.
        restriction: Which of the groups that can be pruned are wanted.
    """

    def __init__(
        self,
        model: nn.Module,
        demo_input: DemoInput | Road,
        wishes: Wishes | None = None,
        mode: str = 'slice',
        restriction: Restriction | None = None,
    ) -> None:
        self.model = model
        self.restriction = restriction or Restriction()
        self.road_book = RoadBook(roads_of(model, demo_input), place_of(model))
        # Tensors made in inference mode could not be written to outside of it.
        with (
            walked_once(), replaced_preparation(model),
            torch.inference_mode(False), collector_waits(),
        ):  # fmt: skip
            # A supernet's modules have the numbers of its subnet until they are released.
            self.wishes = replace(wishes or Wishes(), torchs_heads=torchs_attention(model))
            self._prepare(mode)
            self.restriction.check(self.groups)

    def _prepare(self, mode: str) -> None:
        """Label, instrument and try; pin what fails, until a random subnet runs."""
        contents: Contents = {}
        roads = list(self.road_book.roads)
        self.graph, self.kept_outputs, numbers = trace_roads(self.model, roads, contents)
        unwalked = unwalked_readers(self.model, self.graph)
        self.wishes = replace(self.wishes, numbers=numbers, unwalked=unwalked)
        self.road_book.take_note(self.graph)
        kinds = {name: type(module) for name, module in modules_of(self.model).items()}
        broken: dict[tuple[str, str], str] = {}
        while True:
            self._instrument(replace(self.wishes, broken=broken), mode)
            failure = self._try(contents)
            if failure is None:
                return
            prunable = self._prunable_labels()
            blamed = blame(failure, self.labelling, prunable, kinds, broken)
            if not blamed.keys() - broken.keys() and failure.road != self.graph.roads[0].name:
                problem = f"its subnets fail at module '{failure.module}': {failure.problem}"
                self.road_book.problems[failure.road] = problem
            elif not blamed.keys() - broken.keys():
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
        self.labelling, groups = self._label(wishes)
        self.groups = self.restriction.apply(groups, self.model)
        self.size = self.labelling.num_labels
        self._install(mode)

    def _install(self, mode: str) -> None:
        """Put the switch and the masks into the model, which has its full width."""
        model, prunable = self.model, self._prunable_labels()
        keep_outputs(model, self.kept_outputs)
        self.alive = np.ones(self.size, bool)
        self.layers = layers_of(model, self.labelling)
        self.labelling = with_unread_biases(model, self.labelling, self.layers)
        names = having_any(((n, a) for n, own in self.layers.items() for a in own.labels), prunable)
        touched = {n: layer for n, layer in self.layers.items() if n in names}
        tensors = prunable_tensors(model, self.graph, self.labelling, prunable)
        statistics = prunable_statistics(self.labelling, prunable)
        numbers = self.labelling.size_attributes
        arrangements = self.labelling.arrangements
        quantities = self.labelling.quantities
        self.execution = Execution(
            model, touched, tensors, statistics, numbers, mode, arrangements, quantities
        )
        self.execution.recompute_alike(self.graph.recomputing)
        self.masks = MaskBuffers(model, touched.values(), prunable, self.labelling.tensors)
        Follow(self).attach(model)

    def _label(self, wishes: Wishes) -> tuple[Labelling, dict[str, ChannelGroup]]:
        """Label the network so that the numbers that it computes are right in random subnets."""
        while True:
            labelling = propagate(self.graph, wishes)
            groups = build_groups(labelling)
            wrong: set[int] = set()
            for seed in range(SUBNETS if labelling.checked else 0):
                alive = random_alive(groups, labelling.num_labels, seed)
                wrong |= misread(labelling.checked, labelling.size_attributes, alive)
            wrong = {index for index in wrong if wishes.held.get(index, 0) < HOLD}
            if not wrong:  # what is wrong even where all is held is left to the trial
                return labelling, groups
            failures = {index: wishes.held.get(index, 0) + 1 for index in wrong}
            wishes = replace(wishes, held={**wishes.held, **failures})

    def _try(self, contents: Contents) -> Failure | None:
        """Run a random subnet sliced and masked; full width is set again afterwards.

        It is run on every road that says anything of channels. A road that fails at full width
        cannot be walked.
        """
        if not self.prunable_groups:
            return None
        mode = self.execution.mode
        alive = random_alive(self.groups, self.size, seed=0)

        def switch(way: str) -> None:
            self.execution.mode = way
            self.execution.apply(alive)

        ways = {way: partial(switch, way) for way in ('slice', 'mask')}
        try:
            with untouched(self.model, contents), self.execution.keeping_nothing():
                try:
                    return self._failure(ways, contents)
                finally:
                    self.execution.restore_attributes()
        finally:
            self.execution.mode = mode
            self.execution.apply(self.alive)

    def _failure(
        self, ways: Mapping[str, Callable[[], None]], contents: Contents
    ) -> Failure | None:
        """The first failure on the roads that say something of channels."""
        pending = [road.name for road in self.graph.roads if road.adds]
        while pending:
            road = next((road for road in self.roads() if road.name == pending[0]), None)
            if road is None:
                del pending[0]
                continue
            failure = compare_executions(self.model, road, ways, contents, self.graph.types)
            if failure is None:
                del pending[0]
            elif not self.doubts(road):
                return failure
        return None

    def doubts(self, road: Road) -> bool:
        """Whether a road that failed fails at full width too, which is set for that."""

        def problem_of(road: Road) -> str:
            self.execution.apply(np.ones(self.size, bool))
            with restored(self.model, road):
                return observed_run(self.model, road, observe=False)[2]

        return self.road_book.doubt(road, problem_of)

    def roads(self) -> list[Road]:
        """The roads that can be walked, in the type and on the device that the model has now."""
        return list(self.road_book.walkable(self.model))

    def not_walked(self) -> dict[str, str]:
        """Roads that cannot be walked -> why."""
        return dict(self.road_book.problems)

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
        """The input of the first road, in the type and on the device that the model has now."""
        return next(self.road_book.walkable(self.model)).input

    @cached_property
    def cost_model(self) -> CostModel:
        """What subnets cost by their labels."""
        return CostModel(self.model, self.labelling)

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
        self.follow_replaced()
        with self.execution.alone:
            try:
                self.execution.apply(alive)
            except BaseException:
                self.execution.apply(self.alive)
                raise
            self.masks.write(alive)
            self.alive = alive

    def follow_replaced(self) -> None:
        """Take modules that were put in the place of others, with the same tensors.

        Raises:
            SubnetError: One of them has others, or is of another kind.
        """
        if not (self.is_current and self.execution.places.changed()):
            return
        refuse_others(self.model, self.execution)
        alive, mode = self.alive, self.execution.mode
        own_numbers(self.model, self.execution)
        with torch.inference_mode(False):
            release(self.model)
            self._install(mode)
            self.execution.apply(alive)
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
            unfit = unusable(mask)
            if unfit:
                raise SubnetError(f"subnet: the mask of '{space_id}' {unfit}")
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
        kinds = {(mask.dtype, mask.device, mask.layout) for mask in masks}
        sizes = [mask.numel() for mask in masks]
        if len(kinds) > 1 or [0, *accumulate(sizes)] != starts or unusable(masks[0]):
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
