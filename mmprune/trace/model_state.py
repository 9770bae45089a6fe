"""Leave a model exactly as it was, whatever a trial forward pass did to it."""

from __future__ import annotations

import contextlib
import operator
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mmprune.errors import InputError
from mmprune.randomness import random_state_kept
from mmprune.trace.copies import Contents, Copies
from mmprune.trace.walk import forget_walks, modules_of, parameters_of

_CONTAINERS = (dict, list, set, deque)
# What cannot change, or is not looked into; by exact type, since most of a module is such.
_PLAIN = frozenset({bool, int, float, str, bytes, type(None), FunctionType, MethodType, partial})
_NO_CACHES = frozenset({'_parameters', '_buffers', '_modules'})


def _entries(container: Any) -> tuple[list[Any], list[Any]]:
    """Keys (none but for a dict) and values of a container."""
    if isinstance(container, dict):
        return list(container.keys()), list(container.values())
    return [], list(container)


def _fill(container: Any, keys: list[Any], values: list[Any]) -> None:
    """Give a container these entries, if it has others now."""
    if isinstance(container, dict) and len(container) == len(keys):  # most are as they were
        same = all(map(operator.is_, container.values(), values))
        if same and list(container) == keys:
            return
    keys_now, values_now = _entries(container)
    same = len(values) == len(values_now) and keys == keys_now
    if same and all(map(operator.is_, values, values_now)):
        return
    container.clear()
    if isinstance(container, dict):
        container.update(zip(keys, values, strict=True))
    elif isinstance(container, set):
        container.update(values)
    else:
        container.extend(values)


class _Snapshot:
    """What stood in some containers, all the way down, and where their tensors are.

    Containers are dicts, lists, sets and deques, their subclasses included, so a module's
    ``__dict__`` with its parameters, buffers, submodules, hooks and caches is one of them.
    Modules inside are not entered. Other objects are kept by identity.
    """

    def __init__(self) -> None:
        self.empty: list[Any] = []
        self.containers: list[tuple[Any, list[Any], list[Any]]] = []
        self.tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.constants: list[torch.Tensor] = []
        self.arrays: list[tuple[np.ndarray, np.ndarray]] = []
        # The objects stay alive as long as their ids are looked up here.
        self.seen: dict[int, Any] = {}

    def take(self, root: dict[str, Any]) -> None:
        """Add ``root`` and everything in it."""
        pending: list[Any] = [root]
        while pending:
            value = pending.pop()
            if id(value) in self.seen:
                continue
            if isinstance(value, _CONTAINERS):
                if not value:
                    self.empty.append(value)
                    continue
                keys, values = _entries(value)
                self.containers.append((value, keys, values))
                for inside in values:
                    kind = type(inside)
                    if kind is OrderedDict and not inside:  # most are, the hooks of modules
                        self.empty.append(inside)
                    elif kind not in _PLAIN and not isinstance(inside, nn.Module):
                        pending.append(inside)
            elif isinstance(value, tuple):
                pending += [part for part in value if type(part) not in _PLAIN]
            elif isinstance(value, torch.Tensor):
                if not _has_contents(value):
                    continue
                self.tensors.append((value, value.detach()))
                if not (value.requires_grad or value._is_view()):
                    self.constants.append(value)
            elif isinstance(value, np.ndarray):
                self.arrays.append((value, value.copy()))
            else:
                continue
            self.seen[id(value)] = value

    def restore(self, contents: Contents) -> None:
        """Put everything back that differs; ``contents`` are the tensors that were written to."""
        for container in self.empty:
            if container:
                container.clear()
        for container, keys, values in self.containers:
            _fill(container, keys, values)
        for array, numbers in self.arrays:
            array[...] = numbers
        for tensor in self.constants:
            if tensor.grad_fn is not None:  # something of a graph was written into it
                tensor.detach_()
        for tensor, data in self.tensors:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
        with torch.no_grad():
            for _, data, copied in contents.values():
                if not torch.equal(data, copied):
                    data.copy_(copied)


def _has_contents(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers that a forward pass could change in place."""
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout is torch.strided


class ModelState:
    """The state of a model as it is now, to be put back as often as wanted.

    That is: ``requires_grad`` and ``grad`` of every parameter, the train mode of every module,
    the contents of every parameter and buffer, every attribute of every module with the
    contents of containers and tensors in it (so caches are emptied again). Objects are put
    back, not copies: an optimizer still holds the parameters. Not restored is what a module
    changes inside objects of other classes.

    Args:
        model: Any module.
        contents: See ``untouched``.
    """

    def __init__(self, model: nn.Module, contents: Contents | None = None) -> None:
        modules = list(modules_of(model).values())
        self._parameters = [(p, p.requires_grad, p.grad) for p in parameters_of(model).values()]
        devices = {parameter.device for parameter, _, _ in self._parameters}
        self._devices = {device for device in devices if device.type == 'cuda'}
        self._snapshot = _Snapshot()
        for module in modules:
            self._snapshot.take(module.__dict__)
        self._copies = Copies({} if contents is None else contents)
        with torch._C.DisableTorchFunction():
            held = [tensor for tensor, _ in self._snapshot.tensors]
            self._copies.watch(held)
            for tensor in held:
                if contents is None or not isinstance(tensor, nn.Parameter):
                    self._copies.keep(tensor)

    def is_written(self, tensor: torch.Tensor) -> bool:
        """Whether somebody was about to write to ``tensor`` while the state was kept."""
        return self._copies.is_written(tensor)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Copies]:
        """Context after which the model has this state again, also after an error.

        So have the random generators of torch, numpy and Python the one they began with.

        Yields:
            Has to be told of parameters before they are written to, if ``contents`` are given.
        """
        with random_state_kept(self._devices):
            try:
                yield self._copies
            finally:
                self._snapshot.restore(self._copies.contents)
                forget_walks()
                for parameter, requires_grad, grad in self._parameters:
                    if parameter.requires_grad != requires_grad:
                        parameter.requires_grad_(requires_grad)
                    parameter.grad = grad


def untouched(
    model: nn.Module, contents: Contents | None = None
) -> contextlib.AbstractContextManager[Copies]:
    """Context in which ``model`` may be run and switched freely; see ``ModelState``.

    Args:
        model: Any module.
        contents: Copies of tensors that are written to, to share among several of these
            contexts, between which nobody writes to the model. With it a parameter is not
            copied until the caller says that something may be written to it.
    """
    return ModelState(model, contents).kept()


def held_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Tensors in the plain attributes of a module, also in a dict among them."""
    found = []
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _PLAIN or (kind is OrderedDict and not value):
            continue
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif name not in _NO_CACHES and isinstance(value, dict) and value:
            found += [v for v in value.values() if isinstance(v, torch.Tensor)]
    return found


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a model into a mode, unless all of its modules are in it.

    Raises:
        InputError: It has no modes, as a program of ``torch.export``.
    """
    if any([module.training is not training for module in modules_of(model).values()]):
        try:
            model.train(training)
        except NotImplementedError as error:
            raise InputError(
                f'{type(model).__name__}: cannot be put into training mode ({error}): give the '
                'module that it was made from'
            ) from error
        forget_walks()


def may_cache(module: nn.Module) -> bool:
    """Whether a module may compute something from its weights when its mode changes."""
    return type(module).train is not nn.Module.train


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module and ``requires_grad`` of every parameter on leaving."""
    modes = [(module, module.training) for module in modules_of(model).values()]
    flags = [(parameter, parameter.requires_grad) for parameter in parameters_of(model).values()]
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training is not mode:
                module.training = mode
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def renew_caches(model: nn.Module, candidates: Sequence[nn.Module] | None = None) -> None:
    """Let modules compute anew what they have computed from their weights for eval mode.

    A module that keeps such a tensor drops it when it is put into train mode, where the weights
    change (the attention biases of LeViT and TinyViT). A change of width changes the weights
    too. Modes and ``requires_grad`` are as before afterwards.

    Args:
        model: The model.
        candidates: Its modules that may do so, if they are known.
    """
    known = modules_of(model).values() if candidates is None else candidates
    caching = [m for m in known if may_cache(m) and held_tensors(m)]
    if not caching:
        return
    training = [module.training for module in caching]
    with modes_kept(model), torch.no_grad():
        for module, mode in zip(caching, training, strict=True):
            module.train(True)
            if not mode:
                module.train(False)
    forget_walks()


def caching_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model in eval mode that hold something which train mode drops.

    It is dropped by this call.
    """
    found = []
    candidates = [module for module in modules_of(model).values() if may_cache(module)]
    candidates = [module for module in candidates if held_tensors(module)]
    with modes_kept(model) if candidates else contextlib.nullcontext():
        for module in candidates:
            before = {id(tensor) for tensor in held_tensors(module)}
            if before:
                module.train(True)
                if {id(tensor) for tensor in held_tensors(module)} != before:
                    found.append(module)
    forget_walks()
    return found
