"""What the modules of a model do during one forward pass: when they run, and on what."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_globals

from mmprune.trace.checkpoints import without_checkpoints
from mmprune.trace.walk import modules_of

# Numbers of a trace know all of it.
_NO_CONTAINERS = (nn.Module, str, bytes, int, float, type(None))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in nested containers and plain objects (data samples), in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif not isinstance(item, _NO_CONTAINERS) and id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, Mapping):
                pending.extend(reversed(list(item.values())))
            elif isinstance(item, tuple | list | set):
                pending.extend(reversed(list(item)))
            elif hasattr(item, '__dict__'):
                pending.extend(reversed(list(vars(item).values())))
    return found


def _is_free(tensor: torch.Tensor, token: torch.Tensor | None, most: int = 200) -> bool:
    """Whether a tensor depends on no leaf, or on the token that stands for constants alone."""
    pending: list[Any] = [tensor.grad_fn] if tensor.requires_grad else []
    seen: set[Any] = set()
    while pending and len(seen) < most:
        node = pending.pop()
        if node is None or (not node.next_functions and node.variable is not token):
            return False
        seen.add(node)
        parents = (parent for parent, _ in node.next_functions)
        pending += [parent for parent in parents if parent is not None and parent not in seen]
    return not pending


def _gives_constants(module: nn.Module, output: Any, token: torch.Tensor | None) -> bool:
    """Whether a module of somebody's has no tensors, and has given one all the same."""
    if type(module).__module__.startswith('torch.') or not isinstance(output, torch.Tensor):
        return False
    with torch._C.DisableTorchFunction():
        return (
            output.is_floating_point()
            and 1 < output.dim() < 6
            and _is_free(output, token)
            and next(chain(module.parameters(), module.buffers()), None) is None
        )


class CallRecorder:
    """Which module is running at which autograd sequence number, by global forward hooks.

    Attributes:
        calls: (module, tensors given, tensors returned), in order of the ends of the calls.
        callers: Module that was running at each of them.
        handed: Leaves of the graph that a module was called with, and the name of the module
            that called it.
        recomputing: Names of the modules that have parts of them recomputed in the backward
            pass (activation checkpointing).
        constants: (module, shape) of the constants that modules without tensors gave.
        token: A leaf that stands in the graph for constants.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name for name, module in modules_of(model).items()}
        self.stack = ['']
        self.starts = [0]
        self.running = ['']
        self.calls: list[tuple[str, list[torch.Tensor], list[torch.Tensor]]] = []
        self.callers: list[str] = []
        self.handed: list[tuple[torch.Tensor, str]] = []
        self.recomputing: dict[str, None] = {}
        self.constants: dict[tuple[str, tuple[int, ...]], None] = {}
        self.token: torch.Tensor | None = None
        self._open = contextlib.ExitStack()

    def _mark(self) -> None:
        self.starts.append(torch.autograd._get_sequence_nr())
        self.running.append(self.stack[-1])

    def enter(self, module: nn.Module, args: tuple) -> None:
        """The forward of ``module`` begins."""
        if module in self.names:
            # Modes that watch a trace are not told of what is asked here.
            with torch._C.DisableTorchFunction():
                leaves = [x for x in args if isinstance(x, torch.Tensor) and x.is_leaf]
                self.handed += [(leaf, self.stack[-1]) for leaf in leaves if leaf.requires_grad]
            self.stack.append(self.names[module])
            self._mark()

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """The forward of ``module`` has ended."""
        if module in self.names:
            self.calls.append((self.stack[-1], tensors_in(args), tensors_in(output)))
            self.callers.append(self.stack[-2])
            if self.stack[-1] and _gives_constants(module, output, self.token):
                self.constants.setdefault((self.stack[-1], tuple(output.shape)))
            self.stack.pop()
            self._mark()

    def module_at(self, sequence: int) -> str:
        """Innermost module running when the node of this sequence number was made."""
        return self.running[bisect.bisect_right(self.starts, sequence) - 1]

    def __enter__(self) -> CallRecorder:
        for register, hook in (
            (module_globals.register_module_forward_pre_hook, self.enter),
            (module_globals.register_module_forward_hook, self.leave),
        ):
            self._open.callback(register(hook).remove)
        note = self.recomputing.setdefault
        self._open.enter_context(without_checkpoints(lambda: note(self.stack[-1])))
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
