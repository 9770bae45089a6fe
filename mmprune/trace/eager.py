"""Run a model as Python, whatever it has compiled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

_running: list[contextlib.AbstractContextManager] = []
"""One for each context of ``eagerly`` that is open; the first is torch's."""


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Context in which what ``torch.compile`` has made, modules and functions, runs uncompiled.

    Hooks and modes that observe a run would be compiled along, or not be called. Before torch
    2.6 there is no such context, and they are. Passes that wait for each other leave it in any
    order: the last one out lets torch compile again.
    """
    if 'torch._dynamo' not in sys.modules or not hasattr(torch.compiler, 'set_stance'):
        yield  # nothing has been compiled
        return
    _running.append(_running[0] if _running else torch.compiler.set_stance('force_eager'))
    try:
        yield
    finally:
        stance = _running.pop()
        if not _running:
            stance.__exit__(None, None, None)


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
