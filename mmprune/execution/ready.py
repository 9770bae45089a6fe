"""All parts of a subnet's tensors, looked at once when the network begins to run.

Without gradients a part of a tensor stays what it is until the tensor is written to. To look after
that in every layer takes as long as the layers of a small network themselves. So it is done for
all of them together when the network is called, and until it has run its layers take their parts
as they are. A module that is called by itself looks after its own tensors.
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from mmprune.execution.kernels import AFFINE


class _From(NamedTuple):
    """A tensor that a part was taken from, and what tells that it is still the same."""

    store: dict[str, Any]
    name: str
    full: torch.Tensor | None
    version: int
    address: int

    @classmethod
    def of(cls, module: nn.Module, name: str) -> _From:
        is_parameter = name in module._parameters
        store: dict[str, Any] = module._parameters if is_parameter else module._buffers
        full = store.get(name)
        if full is None or full.is_inference():
            return cls(store, name, full, 0, 0)
        return cls(store, name, full, full._version, full.data_ptr())

    @property
    def is_seen(self) -> bool:
        """Whether torch counts what is written to it."""
        return self.full is None or not self.full.is_inference()

    def holds(self) -> bool:
        """Whether it is in its place, and nobody has written to it."""
        full = self.full
        if self.store.get(self.name) is not full:
            return False
        return full is None or (full._version == self.version and full.data_ptr() == self.address)


_preparing = threading.RLock()
_every: weakref.WeakSet[Ready] = weakref.WeakSet()
_forking: list[Ready] = []


class Ready:
    """Whether the parts of all layers are those of the tensors of now.

    Args:
        modules: The instrumented modules, each with its instrument.

    Attributes:
        holds: Whether they are known to be, because the network has looked and is running.
        is_off: Whether no parts are to be kept.
        alone: Held while the network runs and while a subnet is set: other threads wait.
    """

    def __init__(self, modules: list[tuple[nn.Module, Any]]) -> None:
        self.modules = modules
        self.holds = False
        self.is_off = False
        self.alone = threading.RLock()
        _every.add(self)
        self._taken_from: list[_From] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Ready:
        # Nobody holds the copy's lock.
        copied = memo[id(self)] = Ready([])
        copied.modules = copy.deepcopy(self.modules, memo)
        return copied

    def forget(self) -> None:
        """Drop all parts; they are taken anew when the network runs the next time."""
        self._taken_from, self.holds = None, False
        for _, instrument in self.modules:
            instrument.parts = None

    def look(self) -> bool:
        """Make sure that all parts hold from now on; whether this has to be ended.

        Nothing is done with gradients, in a run inside of another one, and where parts
        are not to be kept.
        """
        if self.holds or self.is_off or torch.is_grad_enabled():
            return False
        if torch._C._are_functorch_transforms_active():
            return False
        if self._taken_from is None or not all([source.holds() for source in self._taken_from]):
            self._take()
        self.holds = True
        return True

    def _take(self) -> None:
        self.forget()
        taken: list[_From] = []
        # A module may be called with something in the place of what another one uses.
        used_elsewhere = {
            place
            for _, instrument in self.modules
            if len(instrument.own) < len(instrument.swaps)
            for swap in set(instrument.swaps).difference(instrument.own.values())
            for place in swap.owners
        }
        for module, instrument in self.modules:
            if instrument.is_idle or not instrument.runs_kernel:
                continue
            sources = [_From.of(module, name) for name in instrument.kernel[1]]
            if not all([s.is_seen and (module, s.name) not in used_elsewhere for s in sources]):
                continue
            if any(source.full is None for source in sources[len(AFFINE) :]):
                continue  # a norm without statistics of its own
            own = instrument.own
            if not all(swap.keeps for swap in own.values()):
                continue
            instrument.parts = tuple(
                [own[s.name].tensor() if s.name in own else s.full for s in sources]
            )
            taken += sources
        self._taken_from = taken


@contextmanager
def preparing() -> Iterator[None]:
    """Trace, deploy or verify while no other thread does: all modules share what that changes."""
    with _preparing:
        yield


def _wait_for_all() -> None:
    """Before a fork: a child must not inherit a run of another thread, which it would await."""
    _preparing.acquire()
    _forking.extend(_every)
    for ready in _forking:
        ready.alone.acquire()


def _go_on() -> None:
    while _forking:
        _forking.pop().alone.release()
    _preparing.release()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_wait_for_all, after_in_parent=_go_on, after_in_child=_go_on)
