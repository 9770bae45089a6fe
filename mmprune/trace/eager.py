"""Run a model as Python, whatever parts of it are compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

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


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Context in which every operation of a function of ``torch.jit.script`` is a node.

    One that has run before is a single node otherwise. It is optimised anew afterwards.
    """
    scripted: Any = torch.jit._state._python_cu.get_functions()  # type: ignore[func-returns-value]
    if not scripted:
        yield
        return
    set_runs: Any = torch._C._jit_set_num_profiled_runs
    before = set_runs(2**31 - 1)
    try:
        for function in scripted:
            function._debug_flush_compilation_cache()
        yield
    finally:
        set_runs(before)
        for function in scripted:
            function._debug_flush_compilation_cache()
