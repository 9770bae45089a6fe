"""Run a model in float64 for a while, to tell rounding from mistakes.

A network that takes a choice (which neighbours are nearest, which scores are the highest k) jumps
where two candidates are equal but for rounding. Two right computations in float32, which round
differently, then give different outputs. In float64 they give the same, unless one is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from mmprune.trace.model_state import held_tensors
from mmprune.trace.tracer import DemoInput


def is_rounded(model: nn.Module) -> bool:
    """Whether a model computes in a type that float64 is more precise than."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float64)
    return dtype != torch.float64


@contextlib.contextmanager
def in_float64(*models: nn.Module) -> Iterator[None]:
    """Context in which every float tensor of ``models`` holds its numbers in float64.

    The tensors stay the same objects; on leaving, they hold what they held before.
    """
    tensors = {
        id(tensor): tensor
        for model in models
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values(),
                       *held_tensors(module))
        if tensor is not None and tensor.is_floating_point()
    }  # fmt: skip
    before = [(tensor, tensor.data) for tensor in tensors.values()]
    try:
        for tensor, data in before:
            tensor.data = data.double()
        yield
    finally:
        for tensor, data in before:
            tensor.data = data


def float64_input(demo_input: DemoInput) -> DemoInput:
    """The same input with its float tensors in float64; a callable is given back as it is."""
    if isinstance(demo_input, torch.Tensor | tuple | list | Mapping):
        return tree_map(_double, demo_input)
    return demo_input


def _double(value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if is_float else value
