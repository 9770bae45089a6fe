"""How a weight is computed from parameters, written down so that it can be computed again.

The autograd graph says which parameters a weight was made of, not what its numbers are. The
calls of torch functions on parameters alone are few; they are kept as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from mmprune.trace.copies import may_write

Key = tuple[Any, int]
"""A node of torch's autograd graph, and which of its outputs."""

# A layer that runs on parameters or constants gives features, not a weight.
LAYERS = frozenset(
    {'linear', 'bilinear', 'embedding', 'embedding_bag', 'scaled_dot_product_attention', 'lstm'}
    | {'gru', 'rnn_tanh', 'rnn_relu', 'multi_head_attention_forward'}
    | {f'conv{kind}{rank}d' for kind in ('', '_transpose') for rank in (1, 2, 3)}
)
# They write nothing unless they are given running statistics.
_NORMS = frozenset({'batch_norm', 'instance_norm'})


@dataclass(frozen=True)
class Named:
    """In the place of a parameter or buffer of the model."""

    name: str


@dataclass(frozen=True)
class Result:
    """In the place of a tensor that an earlier step gives: the ``index``-th of those it returns."""

    step: int
    index: int


@dataclass(frozen=True)
class RecipeStep:
    """One call of a torch function; ``args`` and ``kwargs`` have ``Named`` and ``Result``."""

    function: Callable[..., Any]
    args: tuple
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A weight as a function of a model's parameters and buffers.

    Attributes:
        steps: What is called, in order.
        result: Where the weight is.
    """

    steps: tuple[RecipeStep, ...]
    result: Result

    @property
    def signature(self) -> tuple:
        """Equal for equal functions."""
        leaves = tree_leaves([(s.function, s.args, dict(s.kwargs)) for s in self.steps])
        return (*(_comparable(leaf) for leaf in leaves), self.result)

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight of a model with these parameters and buffers, by name."""
        found: list[list[torch.Tensor]] = []
        like: list[torch.Tensor] = []

        def put(value: Any) -> Any:
            if isinstance(value, Named):
                like.append(tensors[value.name])
                return like[-1]
            if isinstance(value, Result):
                return found[value.step][value.index]
            if isinstance(value, torch.Tensor) and like:  # a constant of the traced model
                return value.to(like[0].device)
            return value

        for step in self.steps:
            given = step.function(*tree_map(put, step.args), **tree_map(put, dict(step.kwargs)))
            found.append(flat_tensors(given))
        return found[self.result.step][self.result.index]


class Recipes:
    """Watches a trace for calls whose tensors are all parameters, or made of them."""

    def __init__(self) -> None:
        self._calls: dict[Key, tuple[Any, tuple, Mapping[str, Any], int]] = {}

    def note(
        self,
        function: Any,
        name: str,
        args: tuple,
        kwargs: Mapping[str, Any],
        given: list[torch.Tensor],
        made: list[torch.Tensor],
    ) -> None:
        """Note a call, unless it is given features.

        Args:
            function: The function of torch.
            name: Its name.
            args: What it was given.
            kwargs: What it was given by name.
            given: The tensors in both.
            made: The tensors that it returned.
        """
        if name in LAYERS:
            return
        sources = [tensor for tensor in given if tensor.requires_grad]
        if not sources or not all(map(self._is_known, sources)):
            return
        if may_write(name, function, args, kwargs) and not _only_reads(name, args, kwargs):
            return
        for index, tensor in enumerate(made):
            if tensor.grad_fn is not None:
                self._calls[tensor.grad_fn, tensor.output_nr] = (function, args, kwargs, index)

    def _is_known(self, tensor: torch.Tensor) -> bool:
        if tensor.grad_fn is None:
            return tensor.is_leaf
        return (tensor.grad_fn, tensor.output_nr) in self._calls

    def of(self, key: Key, names: Callable[[torch.Tensor], str | None]) -> Recipe | None:
        """The recipe of a tensor; None if some of it was not seen.

        Args:
            key: The tensor's place in the autograd graph.
            names: Gives the name of a parameter or buffer, None for any other tensor.
        """
        steps: list[RecipeStep] = []
        numbers: dict[int, int] = {}  # by id of the call's arguments, which are held here

        def result_of(key: Key) -> Result:
            function, args, kwargs, index = self._calls[key]
            if id(args) not in numbers:
                step = RecipeStep(function, tree_map(put, args), tree_map(put, dict(kwargs)))
                numbers[id(args)] = len(steps)
                steps.append(step)
            return Result(numbers[id(args)], index)

        def put(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return _plain(value)
            name = names(value)
            if name is not None:
                return Named(name)
            if not value.requires_grad:
                return value.detach()
            return result_of((value.grad_fn, value.output_nr))

        try:
            result = result_of(key)
        except KeyError:
            return None
        return Recipe(tuple(steps), result)


def _plain(value: Any) -> Any:
    """A value without what a trace adds to numbers."""
    if isinstance(value, torch.Size):
        return torch.Size(int.__int__(size) for size in value)
    is_number = isinstance(value, int) and not isinstance(value, bool | IntEnum)
    return int.__int__(value) if is_number else value


def _comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.data_ptr(), tuple(value.shape)
    return value if isinstance(value, Named | Result | int | float | str) else repr(value)


def _only_reads(name: str, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    statistics = [*args[1:3], kwargs.get('running_mean'), kwargs.get('running_var')]
    return name in _NORMS and not any(isinstance(value, torch.Tensor) for value in statistics)


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in the arguments or results of a torch function, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    if not isinstance(value, (tuple, list, dict)):
        return found
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list, dict)):
            found += flat_tensors(item)
    return found
