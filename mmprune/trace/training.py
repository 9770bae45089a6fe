"""Whether a network may do something else in training than in eval mode.

Norms and dropout of torch do not count: they differ in numbers, not in channels.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.trace.calls import CallRecorder
from mmprune.trace.chance import without_chance
from mmprune.trace.joined import NOISE
from mmprune.trace.model_state import held_tensors, may_cache
from mmprune.trace.walk import forget_walks, modules_of

TORCH = str(Path(torch.__file__).parent / 'nn')
FUSING = ('mmcv/cnn/bricks/conv_module.py',)
"""Code that asks whether a norm may be fused with the layer before it: the same channels."""
_MISSING = object()


@contextlib.contextmanager
def noted_readers() -> Iterator[dict[nn.Module, bool]]:
    """Collect the modules that code other than torch's own asks whether they train.

    A property stands in front of the attribute ``training`` of every module meanwhile.

    Yields:
        Module -> whether nobody but itself has asked.
    """
    found: dict[nn.Module, bool] = {}

    def get(module: nn.Module) -> Any:
        frame = sys._getframe(1)
        if not _asks_in_vain(frame.f_code.co_filename):
            found[module] = found.get(module, True) and frame.f_locals.get('self') is module
        value = module.__dict__.get('training', _MISSING)
        return type(module).__getattr__(module, 'training') if value is _MISSING else value

    def set_(module: nn.Module, value: Any) -> None:
        module.__dict__['training'] = value

    nn.Module.training = property(get, set_)  # type: ignore[assignment]
    try:
        yield found
    finally:
        del nn.Module.training


def _asks_in_vain(file: str) -> bool:
    """Whether code does with the same channels the same in both modes."""
    return file.startswith(TORCH) or file.replace('\\', '/').endswith(FUSING)


def who_differ(readers: Mapping[nn.Module, bool], recorder: CallRecorder) -> set[nn.Module]:
    """The readers that may do something else in training than scale what they are given.

    Stochastic depth is a module without tensors, and is run by itself to see what it does.

    Args:
        readers: See ``noted_readers``.
        recorder: Knows what they were called with.
    """
    given: dict[str, list[list[torch.Tensor]]] = {}
    for name, tensors, _ in recorder.calls if readers else ():
        given.setdefault(name, []).append(tensors)
    return {
        module
        for module, by_itself in readers.items()
        if not by_itself
        or any(module.children())
        or held_tensors(module)
        or any(True for _ in (*module.parameters(), *module.buffers()))
        or not all(
            _only_scales(module, tensors)
            for tensors in given.get(recorder.names.get(module, ''), [[]])
        )
    }


@torch.no_grad()
def _only_scales(module: nn.Module, tensors: list[torch.Tensor]) -> bool:
    """Whether a module in training multiplies its input by numbers that are alike for a sample."""
    if len(tensors) != 1:
        return False
    before = module.training
    module.training = True
    try:
        with torch.enable_grad(), without_chance():
            data = torch.ones_like(tensors[0]).requires_grad_()
            node = module(data).view_as(data).grad_fn.next_functions[0][0]
    except Exception:  # whatever it raises: the road itself will show
        return False
    finally:
        module.training = before
    while node.name() != 'torch::autograd::AccumulateGrad':
        saved = [getattr(node, f'_saved_{side}', None) for side in ('self', 'other')]
        shapes = [tensor.shape[1:] for tensor in saved if isinstance(tensor, torch.Tensor)]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        is_scale = node.name().rstrip('0123456789') in NOISE and len(parents) == 1
        if not is_scale or any(max(shape, default=1) > 1 for shape in shapes):
            return False
        (node,) = parents
    return bool(node.variable is data)


def train(model: nn.Module) -> set[nn.Module]:
    """Put a model into training mode; the modules in which more changes than their modes."""
    modules = list(modules_of(model).values())
    if not any(may_cache(module) for module in modules):
        model.train()
        return set()
    before = [
        (module, store, {**store, 'training': True} if 'training' in store else dict(store))
        for module in modules
        for store in (vars(module), module._parameters, module._buffers, module._modules)
        if store
    ]
    model.train()
    forget_walks()
    return {module for module, store, entries in before if _is_changed(store, entries)}


def _is_changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a module holds other objects under some names, but for its mode."""
    if now.keys() != before.keys():
        return True
    if all(map(operator.is_, now.values(), before.values())):
        return False
    pairs = zip(now.items(), before.values(), strict=True)
    return any([name != 'training' for (name, value), old in pairs if value is not old])


def is_opaque_to_readers(model: nn.Module) -> bool:
    """Whether parts of a model are compiled, so that nobody sees what they ask."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
