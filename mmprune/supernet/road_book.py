"""The roads of a prepared network: which can be walked, and which not and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmprune.channels.sizes import Numbers
from mmprune.layers import Outputs, keep_outputs, outputs_to_keep, stored_numbers
from mmprune.trace import Road, TraceGraph, trace
from mmprune.trace.model_state import Contents
from mmprune.trace.roads import doubled

SINGLE = 'a norm has a single value per channel, which has no statistics: give a batch of two'


@dataclass
class RoadBook:
    """Roads as the user gave them, and what was found about them.

    Attributes:
        roads: All roads.
        place: Device and type that the model had then.
        problems: Name of a road that cannot be walked -> why.
        doubled: Names of the roads that are walked on twice as large a batch.
    """

    roads: tuple[Road, ...]
    place: tuple[torch.device, torch.dtype]
    problems: dict[str, str] = field(default_factory=dict)
    doubled: set[str] = field(default_factory=set)

    def take_note(self, graph: TraceGraph) -> None:
        """Remember what the trace has found."""
        self.problems = {road.name: road.problem for road in graph.roads if road.problem}
        self.doubled = {road.name for road in graph.roads if road.needs_two}
        for road in self.roads:
            if road.name in self.doubled and doubled(road) is None:
                self.problems[road.name] = SINGLE

    def walkable(self, model: nn.Module) -> Iterator[Road]:
        """Every road that can be walked, in the type and on the device that the model has now."""
        before, now = self.place, place_of(model)

        def follow(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            dtype = now[1] if value.dtype == before[1] else value.dtype
            return value.to(now[0] if value.device == before[0] else value.device, dtype)

        for road in self.roads:
            if road.name not in self.problems:
                found = road if before == now else road.mapped(follow)
                yield (doubled(found) if road.name in self.doubled else None) or found

    def doubt(self, road: Road, problem_of: Callable[[Road], str]) -> bool:
        """Whether a road on which something has failed is not to blame a subnet for.

        It is doubled, or given up, if it fails at full width too.

        Args:
            road: The road.
            problem_of: Runs a road at full width and says how it failed; empty if it did not.
        """
        if road.name == self.roads[0].name:
            return False
        problem = problem_of(road)
        if not problem:
            return False
        larger = doubled(road)
        if road.name not in self.doubled and larger is not None and not problem_of(larger):
            self.doubled.add(road.name)
        else:
            self.problems[road.name] = problem
        return True


def trace_roads(
    model: nn.Module, roads: list[Road], contents: Contents
) -> tuple[TraceGraph, Outputs, dict[str, Numbers]]:
    """The trace of a model, whose fixed outputs are followed, and the modules that give such.

    With them comes what its modules store.
    """
    numbers = stored_numbers(model)
    graph = trace(model, roads, contents, numbers)
    outputs = outputs_to_keep(graph.constants)
    if keep_outputs(model, outputs):
        numbers = stored_numbers(model)
        graph = trace(model, roads, contents, numbers)
    return graph, outputs, numbers


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's numbers are, and of which type."""
    found = (p for p in model.parameters() if p.is_floating_point())
    like = next(found, torch.empty(0))
    return like.device, like.dtype


def described(graph: TraceGraph, problems: Mapping[str, str]) -> Iterator[str]:
    """The roads that were walked, for reports."""
    for road in graph.roads:
        if road.name not in problems:
            alike = '' if road.adds else ', with the channels of those before'
            mode = 'in training' if road.training else 'in eval mode'
            yield f'{road.name} ({mode}{alike})'
