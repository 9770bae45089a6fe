"""What the traces of several roads through one model share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from mmprune.trace.known_calls import KnownCalls
from mmprune.trace.model_state import ModelState
from mmprune.trace.recipes import Recipe
from mmprune.trace.roads import DemoInput
from mmprune.trace.trace_graph import Edge

GradFn = Any
"""A node of torch's autograd graph; torch gives it no public type."""


RecipeOf = Callable[[GradFn, int], Recipe | None]


@dataclass
class Session:
    """What the traces of several roads through one model share.

    Attributes:
        state: The model's own state, which it has again after every road.
        stored: Numbers that modules store, by module and attribute, to follow where they are
            used.
        known: Nodes of autograd that were read -> the node that each is, and which output of it
            all of its outputs are, None for the same one.
        calls: What parts of the model gave.
        readers: Modules that were asked whether they train, or that change more than their
            mode when they do.
        reached: Parameters that were reached.
        stop: How many nodes have been read and kept.
        order: The nodes of autograd that the last road's nodes were read from.
        recipe: Tells how an output of one of these was computed from parameters.
        makers: Node of the graph -> the node of autograd and the ``recipe`` of its road.
    """

    state: ModelState
    stored: Mapping[str, Any]
    known: dict[GradFn, tuple[int, int | None]] = field(default_factory=dict)
    calls: KnownCalls = field(default_factory=KnownCalls)
    readers: set[nn.Module] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    stop: int = 0
    order: list[GradFn] = field(default_factory=list)
    recipe: RecipeOf = lambda grad_fn, output: None
    makers: dict[int, tuple[GradFn, RecipeOf]] = field(default_factory=dict)
    _inputs: dict[int, tuple[Any, Any, list[torch.Tensor]]] = field(default_factory=dict)

    def recipe_of(self, edge: Edge) -> Recipe | None:
        """How a tensor of the graph was computed from parameters, if that was seen."""
        grad_fn, recipe = self.makers[edge[0]]
        return recipe(grad_fn, edge[1])

    def differentiable(self, demo_input: DemoInput) -> tuple[DemoInput, list[torch.Tensor]]:
        """A copy whose float tensors require grad, and these; the same one for the same input."""
        found = self._inputs.get(id(demo_input))
        if found is None:
            found = self._inputs[id(demo_input)] = (demo_input, *_differentiable(demo_input))
        return found[1], found[2]


def _differentiable(demo_input: DemoInput) -> tuple[DemoInput, list[torch.Tensor]]:
    """Copies of the float tensors of a demo input that require grad."""
    leaves: list[torch.Tensor] = []

    def copy(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.detach().clone().requires_grad_(True)
            leaves.append(value)
        return value

    if isinstance(demo_input, torch.Tensor | tuple | list | Mapping):
        return tree_map(copy, demo_input), leaves
    return demo_input, leaves


def topological(roots: list[GradFn], known: Collection[GradFn]) -> list[GradFn]:
    """All grad_fns behind ``roots`` but known ones, producers first, ties by order of execution."""
    order: list[GradFn] = []
    done: set[GradFn] = set(known)
    stack: list[tuple[GradFn, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        grad_fn, expanded = stack.pop()
        if expanded:
            order.append(grad_fn)
        elif grad_fn not in done:
            done.add(grad_fn)
            stack.append((grad_fn, True))
            stack.extend(
                (parent, False)
                for parent, _ in grad_fn.next_functions
                if parent is not None and parent not in done
            )
    sequences = {g: g._sequence_nr() if g.next_functions else -1 for g in order}
    executed = sorted(order, key=sequences.__getitem__)
    position = {grad_fn: index for index, grad_fn in enumerate(executed)}
    in_order = all(
        position[parent] < position[grad_fn]
        for grad_fn in executed
        for parent, _ in grad_fn.next_functions
        if parent in position
    )
    return executed if in_order else order
