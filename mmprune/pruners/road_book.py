"""The roads of a prepared network: which can be walked, and which not and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmprune.trace import Road, TraceGraph, WalkedRoad
from mmprune.trace.roads import doubled

SINGLE = 'a norm has a single value per channel, which has no statistics: give a batch of two'


@dataclass
class RoadBook:
    """Roads as the user gave them, and what was found about them.

    Attributes:
        roads: All roads.
        place: Device and type that the model had then.
        problems: Name of a road that cannot be walked -> why.
    """

    roads: tuple[Road, ...]
    place: tuple[torch.device, torch.dtype]
    problems: dict[str, str] = field(default_factory=dict)

    def take_note(self, graph: TraceGraph) -> None:
        """Remember what the trace has found."""
        self.problems = {road.name: road.problem for road in graph.roads if road.problem}

    def walkable(self, graph: TraceGraph, model: nn.Module) -> Iterator[tuple[Road, WalkedRoad]]:
        """Every road that can be walked, in the type and on the device that the model has now.

        Where a norm would have a single value, the batch is doubled.
        """
        before, now = self.place, place_of(model)

        def follow(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            dtype = now[1] if value.dtype == before[1] else value.dtype
            return value.to(now[0] if value.device == before[0] else value.device, dtype)

        for road, walked in zip(self.roads, graph.roads, strict=True):
            if road.name in self.problems:
                continue
            found: Road | None = road if before == now else road.mapped(follow)
            if walked.needs_two and found is not None:
                found = doubled(found)
            if found is None:
                self.problems[road.name] = SINGLE
            else:
                yield found, walked


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's numbers are, and of which type."""
    found = (p for p in model.parameters() if p.is_floating_point())
    like = next(found, torch.empty(0))
    return like.device, like.dtype


def described(graph: TraceGraph, problems: Mapping[str, str]) -> Iterator[str]:
    """A line for every road, for reports."""
    for number, road in enumerate(graph.roads):
        mode = 'training' if road.training else 'eval mode'
        if road.name in problems:
            yield f'{road.name}: not walked: {problems[road.name]}'
        elif number and not road.adds:
            yield f'{road.name}: in {mode}, with the channels of the roads before it'
        else:
            yield f'{road.name}: in {mode}'
