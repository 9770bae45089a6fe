"""Let tensors require grad for a while, as a trace needs of buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch


@contextlib.contextmanager
def requiring_grad(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Let buffers require grad for a while."""
    before = [(tensor, tensor.requires_grad) for tensor in tensors]
    try:
        for tensor, _ in before:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, required in before:
            tensor.requires_grad_(required)
