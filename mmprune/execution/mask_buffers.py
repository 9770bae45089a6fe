"""The ``in_mask`` and ``out_mask`` buffers: where a supernet remembers its subnet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.execution.instrument import STATE, instrument, kept
from mmprune.layers import Layer


class MaskBuffers:
    """The mask buffers of a model, and the labels that each of them stands for.

    A buffer is float, 0 or 1, of shape (1, C, 1, ...) with the rank of the layer's output.
    Channels that no layer with masks makes (bare parameters) get a buffer
    ``<parameter>_mask`` on the module that owns the parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer],
        prunable: BoolArray,
        tensors: Mapping[str, list[IntArray]],
    ) -> None:
        self.labels: list[tuple[nn.Module, str, IntArray]] = []
        self.modules = dict(model.named_modules())
        covered = np.zeros(len(prunable), bool)
        for layer in layers:
            for name, labels in (('out_mask', layer.outputs), ('in_mask', layer.inputs)):
                if labels is not None and prunable[labels[labels >= 0]].any():
                    self._register(layer.name, name, labels, layer.mask_rank)
                    covered[labels[labels >= 0]] = True
        for tensor, factors in tensors.items():
            owner, _, local = tensor.rpartition('.')
            for factor in factors:
                labels = np.unique(factor[factor >= 0])
                labels = labels[prunable[labels] & ~covered[labels]]
                if len(labels) and owner in self.modules:
                    self._register(owner, f'{local}_mask', labels, 1)
                    covered[labels] = True

    def _register(self, owner: str, name: str, labels: IntArray, rank: int) -> None:
        module = self.modules[owner]
        shape = (1, -1, *(1,) * (rank - 2)) if rank > 1 else (-1,)
        device = next((t.device for t in module.parameters(recurse=False)), None)
        mask = torch.ones(len(labels), device=device).reshape(shape)
        if hasattr(module, name):
            raise ValueError(
                f"module '{owner}' already has an attribute '{name}', which mmprune needs for "
                'its masks: has it been prepared by another pruner?'
            )
        module.register_buffer(name, mask)
        instrument(module).masks.append(name)
        self.labels.append((module, name, labels))

    def write(self, alive: BoolArray) -> None:
        """Set every buffer to the subnet whose labels are ``alive``."""
        with torch.no_grad():
            for module, name, labels in self.labels:
                mask = module._buffers[name]
                assert mask is not None
                mask.copy_(torch.from_numpy(kept(alive, labels)).reshape(mask.shape))

    def read(self, size: int) -> BoolArray:
        """Which of ``size`` labels are alive, by the buffers; unknown ones are.

        Raises:
            ValueError: A buffer has another shape, or two disagree about a channel.
        """
        alive = np.ones(size, bool)
        for module, name, labels in self.labels:
            mask = module._buffers[name]
            assert mask is not None
            values = mask.detach().cpu().numpy().ravel() != 0
            alive[labels[(labels >= 0) & ~values]] = False
        for module, name, labels in self.labels:
            mask = module._buffers[name]
            assert mask is not None
            values = mask.detach().cpu().numpy().ravel() != 0
            if (kept(alive, labels) != values).any():
                layer = next(n for n, m in self.modules.items() if m is module)
                raise ValueError(
                    f"the masks of the supernet disagree: '{layer}.{name}' keeps "
                    f'{int(values.sum())} channels, the layers of its group '
                    f'{int(kept(alive, labels).sum())}'
                )
        return alive

    def follow_loading(self, model: nn.Module, refresh: Callable[[], None]) -> list[Any]:
        """Make ``load_state_dict`` accept plain checkpoints, and call ``refresh`` after it."""

        def fill(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any, **__: Any) -> None:
            names = {m: n for n, m in module.named_modules()}
            for owner in names:
                held = owner.__dict__.get(STATE)
                for mask in held.masks if held is not None else ():
                    key = f'{prefix}{names[owner]}.{mask}' if names[owner] else f'{prefix}{mask}'
                    state.setdefault(key, torch.ones_like(owner._buffers[mask]))

        def after(module: nn.Module, _: Any) -> None:
            refresh()

        return [
            model.register_load_state_dict_pre_hook(fill),
            model.register_load_state_dict_post_hook(after),
        ]
