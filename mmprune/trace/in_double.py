"""Run code that makes float32 numbers of its own, in float64 throughout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from mmprune.trace.function_mode import FunctionMode


class InDouble(FunctionMode):
    """Within it, what would be float32 is float64: anchors, positions, targets, casts."""

    def _call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        given = {key: _double_type(value) for key, value in kwargs.items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return _double(func(*map(_double_type, args), **given))


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Context of ``InDouble`` in which numbers without a type are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def _double_type(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype is torch.float32 else value
    return type(value)(map(_double, value)) if type(value) in (tuple, list) else value
