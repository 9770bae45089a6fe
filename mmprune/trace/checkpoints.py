"""Activation checkpointing (``torch.utils.checkpoint``), and how to get between.

Both kinds run a function and run it again in the backward pass: the re-entrant one
(``CheckpointFunction``) outside of the graph, the other one by hooks on saved tensors. The two
names below are looked up by ``checkpoint`` whenever it is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from torch.utils import checkpoint

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

    with _replaced(apply, generator):
        yield


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
