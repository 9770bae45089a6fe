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


_before: list[torch.dtype] = []
"""The types that numbers had by default when the contexts that are open were entered."""


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Context of ``InDouble`` in which numbers without a type are float64 too.

    Passes that wait for each other leave it in any order: the last one out puts the type back.
    """
    _before.append(torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        if len(_before) == 1:
            torch.set_default_dtype(_before[0])
        _before.pop()


def _double_type(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype is torch.float32 else value
    return type(value)(map(_double, value)) if type(value) in (tuple, list) else value
