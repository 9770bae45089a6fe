"""Activation checkpointing (``torch.utils.checkpoint``), and how to get between.

Both kinds run a function and run it again in the backward pass: the re-entrant one
(``CheckpointFunction``) outside of the graph, the other one by hooks on saved tensors. The two
names below are looked up by ``checkpoint`` whenever it is called.

Functions of a model's own kind do the same (reversible blocks): an ``autograd.Function`` that is
given modules runs them outside of the graph, and again in its backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.autograd import Function as AutogradFunction
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves

Function = Callable[..., Any]
REENTRANT, OTHER = 'CheckpointFunction', '_checkpoint_without_reentrant_generator'


@contextlib.contextmanager
def _replaced(apply: Function, generator: Function) -> Iterator[None]:
    """Let ``checkpoint`` call these in the place of its own."""
    names = {REENTRANT: SimpleNamespace(apply=apply), OTHER: generator}
    before = {name: getattr(checkpoint, name) for name in names}
    try:
        for name, value in names.items():
            setattr(checkpoint, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(checkpoint, name, value)


@contextlib.contextmanager
def without_checkpoints(note: Callable[[], Any]) -> Iterator[None]:
    """Run checkpointed functions as if they were not, after calling ``note``."""

    def apply(function: Function, preserve: bool, *args: Any) -> Any:
        note()
        return function(*args)

    def generator(*_: Any, **__: Any) -> Iterator[None]:
        note()
        yield

    with _replaced(apply, generator), _functions_of_modules_inline(note):
        yield


class _Context(SimpleNamespace):
    """What a forward of an ``autograd.Function`` tells its backward, which never runs."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def _functions_of_modules_inline(note: Callable[[], Any]) -> Iterator[None]:
    """Run the forwards of ``autograd.Function``s that are given modules as plain code."""
    plain = AutogradFunction.__dict__['apply']

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, nn.Module) for leaf in tree_leaves((args, kwargs))):
            note()
            return cls.forward(_Context(), *args, **kwargs)
        return plain.__func__(cls, *args, **kwargs)

    AutogradFunction.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        AutogradFunction.apply = plain  # type: ignore[method-assign]


@contextlib.contextmanager
def checkpoints_of(wrap: Callable[[Function], Function]) -> Iterator[None]:
    """Checkpoint ``wrap(function)`` in the place of a function, here and when it runs again."""
    plain, plain_generator = getattr(checkpoint, REENTRANT), getattr(checkpoint, OTHER)

    def apply(function: Function, *rest: Any) -> Any:
        return plain.apply(wrap(function), *rest)

    def generator(function: Function, *rest: Any, **options: Any) -> Any:
        return plain_generator(wrap(function), *rest, **options)

    with _replaced(apply, generator):
        yield
