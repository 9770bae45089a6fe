"""Run a model as Python, whatever parts of it are compiled."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from mmprune.trace.walk import modules_of


def eagerly(model: nn.Module) -> contextlib.AbstractContextManager:
    """Context in which ``torch.compile``'d parts of ``model`` run uncompiled.

    Hooks and modes that observe a run would be compiled along, or not be called. Before torch
    2.6 there is no such context, and they are.
    """
    is_compiled = any(
        module.__dict__.get('_compiled_call_impl') is not None or '_orig_mod' in module._modules
        for module in modules_of(model).values()
    )
    if is_compiled and hasattr(torch.compiler, 'set_stance'):
        return torch.compiler.set_stance('force_eager')
    return contextlib.nullcontext()
