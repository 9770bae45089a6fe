"""Run a model in float64 for a while, to tell rounding from mistakes.

A network that takes a choice (which neighbours are nearest, which scores are the highest k) jumps
where two candidates are equal but for rounding. Two right computations in float32, which round
differently, then give different outputs. In float64 they give the same, unless one is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mmprune.trace.model_state import held_tensors
from mmprune.trace.roads import Road, as_road


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


def float64_input(demo_input: Any) -> Any:
    """The same input, or road, with its float tensors in float64; a callable stays as it is."""
    if isinstance(demo_input, Road):
        return demo_input.mapped(_double)
    return as_road(demo_input).mapped(_double).input


def _double(value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if is_float else value
