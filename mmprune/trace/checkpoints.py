"""Activation checkpointing (``torch.utils.checkpoint``), and how to get between.

Both kinds run a function and run it again in the backward pass: the re-entrant one
(``CheckpointFunction``) outside of the graph, the other one by hooks on saved tensors. The two
names below are looked up by ``checkpoint`` whenever it is called.

Functions of a model's own kind may do the same (reversible blocks): an ``autograd.Function`` runs
outside of the graph. Its forward is code as any other, and is traced as such.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.autograd import Function as AutogradFunction
from torch.autograd.graph import get_gradient_edge
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves

from mmprune.registry import BACKWARD_PARSERS, table
from mmprune.trace.operations import parser_of

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

    with _replaced(apply, generator), _functions_inline(note):
        yield


class _Context(SimpleNamespace):
    """What a forward of an ``autograd.Function`` tells its backward, which never runs."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def _functions_inline(note: Callable[[], Any]) -> Iterator[None]:
    """Run the forwards of ``autograd.Function``s that no parser reads as plain code.

    One that leaves torch is run as it is: it is one node then, of which only the name is known.
    """
    owner: Any = AutogradFunction.__mro__[1]  # what a bound ``apply`` calls, whoever has it
    parsers = table(BACKWARD_PARSERS)

    def apply(cls: Any, *args: Any) -> Any:
        node, plain = SimpleNamespace(_forward_cls=cls), super(owner, cls).apply
        is_torchs = cls.__module__.startswith('torch.')
        if is_torchs or parser_of(node, f'{cls.__name__}Backward', parsers):
            return plain(*args)
        leaves = tree_leaves(args)
        given = [t for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]
        sources = {get_gradient_edge(tensor).node for tensor in given}
        has_modules = any(isinstance(leaf, nn.Module) for leaf in leaves)
        if has_modules:
            note()
        context = _Context(needs_input_grad=(True,) * len(args))
        has_context = cls.setup_context is AutogradFunction.setup_context
        result = cls.forward(*([context] if has_context else []), *args)
        return result if has_modules or _shows(result, sources) else plain(*args)

    owner.apply = classmethod(apply)
    try:
        yield
    finally:
        del owner.apply


def _shows(result: Any, sources: set[Any]) -> bool:
    """Whether the graph of a result shows that it was computed from all of these nodes."""
    made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    if not all(tensor.requires_grad for tensor in made if tensor.is_floating_point()):
        return False
    pending = [get_gradient_edge(tensor).node for tensor in made if tensor.requires_grad]
    seen = set(pending)
    while pending:
        node = pending.pop()
        for parent, _ in () if node in sources else node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return sources <= seen


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
