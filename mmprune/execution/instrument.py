"""The patched forward of a module, and what it needs to run as a subnet."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any, NoReturn

import torch
from torch import nn

from mmprune.execution.kept_statistics import (
    KeptElements,
    KeptStatistics,
    apart,
    calls_until_now,
    is_part,
)
from mmprune.execution.kernels import Kernel, Parts, kernel_of, run_kernel
from mmprune.execution.ready import Ready
from mmprune.execution.swap import Swap
from mmprune.trace.checkpoints import checkpoints_of
from mmprune.trace.model_state import may_cache
from mmprune.trace.stored import store

STATE = '_mmprune'
"""Name of the attribute that an instrumented module carries."""


@dataclass
class Instrument:
    """What mmprune keeps on one module; copied along when the module is.

    Attributes:
        original: The forward that stood on the instance itself, if any.
        kernel: A forward for the module's type that is given its tensors.
        swaps: Tensors to replace during this module's forward.
        own: Those of them that the module owns, by local name.
        statistics: The channels that its norms and reductions see.
        is_idle: Whether the subnet changes nothing here.
        attributes: The module's own values of attributes that are mended now.
        masks: Names of the mask buffers that mmprune has registered on the module.
        recomputes: Whether parts of its forward run again in the backward pass.
        ready: Tells whether the parts of all layers hold, see there.
        parts: The tensors for the kernel, while they hold.
    """

    original: Callable[..., Any] | None = None
    kernel: Kernel | None = None
    swaps: list[Swap] = field(default_factory=list)
    own: dict[str, Swap] = field(default_factory=dict)
    statistics: list[KeptElements] = field(default_factory=list)
    is_idle: bool = True
    attributes: dict[str, Any] = field(default_factory=dict)
    masks: list[str] = field(default_factory=list)
    recomputes: bool = False
    ready: Ready | None = None
    parts: Parts | None = None

    def arrange(self, module: nn.Module, swaps: list[Swap]) -> None:
        """Run with these tensors swapped in from now on."""
        self.swaps = swaps
        self.own = {name: swap for swap in swaps for owner, name in swap.owners if owner is module}
        self.statistics = []

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` as the subnet: on its tensors, statistics over its channels."""
        if self.recomputes:
            with checkpoints_of(lambda part: partial(self._run_again, part, calls_until_now())):
                return self._run(function, *args, **kwargs)
        return self._run(function, *args, **kwargs)

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.statistics:
            return run_swapped(self.swaps, function, *args, **kwargs)
        with KeptStatistics(self.statistics):
            return run_swapped(self.swaps, function, *args, **kwargs)

    def _run_again(
        self, function: Callable[..., Any], calls: Counter[tuple], *args: Any, **kwargs: Any
    ) -> Any:
        """As ``_run``, in the backward pass, for a part of the forward."""
        with contextlib.ExitStack() as stack:
            # The full forward had these tensors before the part began, and checkpointing
            # compares what the part saves with what it saved then.
            with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
                for swap in self.swaps:
                    swap.enter()
                    stack.callback(swap.leave)
            if self.statistics:
                stack.enter_context(KeptStatistics(self.statistics, calls))
            return function(*args, **kwargs)

    def takes_parts(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether a call may be computed from the parts as they are."""
        return (
            self.ready is not None
            and self.ready.holds
            and not module.training
            and not torch.is_grad_enabled()
            and len(args) == 1
            and not kwargs
        )

    @property
    def runs_kernel(self) -> bool:
        """Whether the module needs nothing but its own tensors."""
        return self.kernel is not None and len(self.own) == len(self.swaps) and not self.statistics

    def __deepcopy__(self, memo: dict[int, Any]) -> Instrument:
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__ = copy.deepcopy({**self.__dict__, 'parts': None}, memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        # A patched forward is bound to its module, and pickle would bring back the full one.
        raise pickle.PicklingError(
            'a supernet cannot be pickled: save its state_dict() and prepare the network again, '
            'or pickle the network that deploy_subnet returns'
        )


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def is_instrumented(module: nn.Module) -> bool:
    """Whether the module itself carries mmprune's state."""
    return STATE in module.__dict__


def run_swapped(swaps: Sequence[Swap], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``run`` with the subnet's tensors in the modules."""
    entered = []
    try:
        for swap in swaps:
            swap.enter()
            entered.append(swap)
        return run(*args, **kwargs)
    finally:
        for swap in reversed(entered):
            swap.leave()


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The patched forward: the module's own one, on the subnet's tensors."""
    state: Instrument = self.__dict__[STATE]
    is_compiling = torch.compiler.is_compiling()
    if not is_compiling and is_part():
        with apart():
            return _forward(self, *args, **kwargs)
    if not is_compiling and state.parts is not None and state.takes_parts(self, args, kwargs):
        return state.kernel[0](self, state.parts, args[0])  # type: ignore[index]
    # A compiled supernet must not have to be compiled again when everything is kept.
    if is_compiling or not state.is_idle:
        if state.runs_kernel and len(args) == 1 and not kwargs:
            assert state.kernel is not None
            return run_kernel(self, state.kernel, state.own, args[0])
        if state.original is not None:
            return state.run(state.original, *args, **kwargs)
        return state.run(type(self).forward, self, *args, **kwargs)
    if state.original is not None:
        return state.original(*args, **kwargs)
    return type(self).forward(self, *args, **kwargs)


def _root_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The patched forward of the network itself: looks after the parts of all its layers."""
    ready: Ready | None = self.__dict__[STATE].ready
    if torch.compiler.is_compiling() or ready is None:
        return _forward(self, *args, **kwargs)
    with ready.alone:
        if not ready.look():
            return _forward(self, *args, **kwargs)
        try:
            return _forward(self, *args, **kwargs)
        finally:
            ready.holds = False


def _call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The patched call of a module with hooks that compute its weight before its forward."""
    run = MethodType(type(self)._call_impl, self)
    return self.__dict__[STATE].run(run, *args, **kwargs)


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    """The patched ``train``: forgets what was computed from the weights, which may change.

    A module may compute something from its weights in it; it then does from the subnet's.
    """
    state: Instrument = self.__dict__[STATE]
    for swap in state.swaps:
        swap.forget()
    if state.ready is not None and state.parts is not None:
        state.ready.forget()
    if not may_cache(self):
        return type(self).train(self, mode)
    run_swapped(state.swaps, type(self).train, self, mode)
    return self


_forward.__name__ = _root_forward.__name__ = 'forward'
_call.__name__ = '_call_impl'
_train.__name__ = 'train'


def instrument(module: nn.Module) -> Instrument:
    """The module's instrument, made and its forward patched on first use."""
    if not is_instrumented(module):
        state = Instrument(module.__dict__.get('forward'), kernel_of(module))
        module.__dict__[STATE] = state
        module.__dict__['forward'] = MethodType(_forward, module)
        if module._forward_pre_hooks and '_call_impl' not in module.__dict__:
            module.__dict__['_call_impl'] = MethodType(_call, module)
        if 'train' not in module.__dict__:
            module.__dict__['train'] = MethodType(_train, module)
    return module.__dict__[STATE]


def instrument_root(model: nn.Module, ready: Ready) -> None:
    """Let a network look after the parts of all its layers when it is called."""
    instrument(model)
    model.__dict__['forward'] = MethodType(_root_forward, model)
    for _, state in ready.modules:
        state.ready = ready


def uninstrument(module: nn.Module) -> None:
    """Take the instrument of a module away; its masks, attributes and methods are as before."""
    state: Instrument | None = module.__dict__.pop(STATE, None)
    if state is None:
        return
    for name in ('forward', '_call_impl', 'train'):
        if getattr(module.__dict__.get(name), '__func__', None) in (
            _forward,
            _root_forward,
            _call,
            _train,
        ):
            del module.__dict__[name]
    if state.original is not None:
        module.__dict__['forward'] = state.original
    store(module, state.attributes)
    for name in state.masks:
        del module._buffers[name]


def local_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's own parameters and buffers, masks left out."""
    own = {**module._parameters, **module._buffers}
    masks = module.__dict__[STATE].masks if is_instrumented(module) else ()
    return {n: tensor for n, tensor in own.items() if tensor is not None and n not in masks}
