"""Fused kernels of torch that read the tensors of other modules, past their patched forwards.

Without gradients ``nn.TransformerEncoderLayer`` hands all of its tensors to one kernel, and the
forwards of its linear layers and norms never run. While a layer is part of a supernet, an
attribute that torch looks at before it takes this way says no; a deployed network has its own
value again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

FAST_PATHS: dict[type[nn.Module], Mapping[str, Any]] = {
    nn.TransformerEncoderLayer: {'activation_relu_or_gelu': 0},
    nn.TransformerEncoder: {'use_nested_tensor': False},
}
"""Class of a module -> the attributes, and their values, that keep it on its plain path."""


def slow_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of ``module`` that have to change for its submodules' forwards to run."""
    return {
        name: value
        for kind, attributes in FAST_PATHS.items()
        if isinstance(module, kind)
        for name, value in attributes.items()
        if getattr(module, name, value) != value
    }


@contextlib.contextmanager
def plain_paths() -> Iterator[None]:
    """Context in which no model takes a fused path: two of them are compared on the same one.

    A fused encoder gives zeros where the padding mask says so, the plain one other numbers.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
