"""The ``in_mask`` and ``out_mask`` buffers: where a supernet remembers its subnet."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray, kept
from mmprune.errors import InputError
from mmprune.execution.instrument import instrument
from mmprune.layers import Layer
from mmprune.trace.walk import places_of_modules

MASK_NAMES = ('in_mask', 'out_mask')
"""What the keys of masks end with in a state dict."""


@dataclass(frozen=True)
class MaskBuffer:
    """One mask buffer.

    Attributes:
        module: The module that has it.
        name: Its name there.
        keys: Its names in the state dict, several if the module has several.
        labels: The label of every element.
    """

    module: nn.Module
    name: str
    keys: tuple[str, ...]
    labels: IntArray

    @property
    def tensor(self) -> torch.Tensor:
        """The buffer."""
        mask = self.module._buffers[self.name]
        assert mask is not None
        return mask


def _as_arrays(tensors: Sequence[torch.Tensor]) -> list[np.ndarray] | None:
    """The memory of float tensors on the CPU as flat arrays, None for others.

    Many small copies take torch far longer than numpy.
    """
    kinds = {(t.device.type, t.dtype, t.is_contiguous()) for t in tensors}
    if kinds == {('cpu', torch.float32, True)}:
        return [tensor.detach().numpy().reshape(-1) for tensor in tensors]
    return None


class MaskBuffers:
    """The mask buffers of a model, and the labels that each of them stands for.

    A buffer is float, 0 or 1, of shape (1, C, 1, ...) with the rank of the layer's output.
    Channels that no layer with masks makes (bare parameters) get a buffer
    ``<parameter>_mask`` on the module that owns the parameter.

    Args:
        model: The supernet.
        layers: The layers that get masks, one for their outputs and, unless they are norms,
            one for their inputs.
        prunable: Which labels some subnet drops, (num_labels,) bool.
        tensors: Label arrays of every parameter, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer],
        prunable: BoolArray,
        tensors: Mapping[str, list[IntArray]],
    ) -> None:
        self.buffers: list[MaskBuffer] = []
        self.size = len(prunable)
        self._arrays: tuple[list[torch.Tensor], list[np.ndarray] | None] | None = None
        modules: dict[str, nn.Module] = {}
        self._places: dict[nn.Module, list[str]] = {}
        for place, module in places_of_modules(model):
            modules[place] = module
            self._places.setdefault(module, []).append(place)
        covered = np.zeros(self.size, bool)
        for layer in layers:
            for name, labels in (('out_mask', layer.outputs), ('in_mask', layer.inputs)):
                if labels is not None:
                    self._register(modules[layer.name], name, labels, layer.mask_rank)
                    covered[labels[labels >= 0]] = True
        bare = bool((prunable & ~covered).any())
        for tensor, factors in tensors.items() if bare else ():
            owner, _, local = tensor.rpartition('.')
            for factor in factors:
                labels = factor[factor >= 0]
                labels = labels[prunable[labels] & ~covered[labels]]
                if len(labels) and owner in modules:
                    labels = np.unique(labels)
                    self._register(modules[owner], f'{local}_mask', labels, 1)
                    covered[labels] = True

    def _register(self, module: nn.Module, name: str, labels: IntArray, rank: int) -> None:
        shape = (1, len(labels), *(1,) * (rank - 2)) if rank > 1 else (len(labels),)
        like = next((t for t in module._parameters.values() if t is not None), None)
        mask = torch.ones(shape, device=None if like is None else like.device)
        masks = instrument(module).masks
        while name in masks:
            name += '_'  # a parameter with channels along two dims
        try:
            if name in module._buffers:
                raise KeyError(name)
            module.register_buffer(name, mask)
        except KeyError:
            raise InputError(
                f"module '{self._places[module][0]}' has an attribute '{name}' of its own, and "
                'mmprune needs this name for its masks: rename the attribute'
            ) from None
        masks.append(name)
        keys = tuple(f'{p}.{name}' if p else name for p in self._places[module])
        self.buffers.append(MaskBuffer(module, name, keys, labels))

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskBuffers:
        copied = object.__new__(type(self))
        copied.size, copied._arrays = self.size, None
        copied.buffers = [
            replace(buffer, module=copy.deepcopy(buffer.module, memo)) for buffer in self.buffers
        ]
        return copied

    def by_key(self) -> dict[str, torch.Tensor]:
        """The buffers by their names in the state dict."""
        return {key: buffer.tensor for buffer in self.buffers for key in buffer.keys}

    def write(self, alive: BoolArray) -> None:
        """Set every buffer to the subnet whose labels are ``alive``."""
        if not self.buffers:
            return
        numbers = (alive[self._labels] | self._fixed).astype(np.float32)
        tensors = [buffer.tensor for buffer in self.buffers]
        if self._arrays is None or any(map(operator.is_not, tensors, self._arrays[0])):
            self._arrays = tensors, _as_arrays(tensors)
        arrays = self._arrays[1]
        if arrays is not None:
            for array, start, stop in zip(arrays, self._starts, self._stops, strict=True):
                array[:] = numbers[start:stop]
            return
        staging, parts = self._staging
        staging.copy_(torch.from_numpy(numbers))
        with torch.no_grad():
            torch._foreach_copy_(tensors, parts)

    @cached_property
    def _labels(self) -> IntArray:
        """The labels of all buffers, end to end; 0 where they are fixed."""
        return np.maximum(np.concatenate([buffer.labels for buffer in self.buffers]), 0)

    @cached_property
    def _fixed(self) -> BoolArray:
        return np.concatenate([buffer.labels for buffer in self.buffers]) < 0

    @cached_property
    def _stops(self) -> list[int]:
        """Where the labels of each buffer end."""
        return np.cumsum([len(buffer.labels) for buffer in self.buffers]).tolist()

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *self._stops[:-1]]

    @cached_property
    def _staging(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Room for all masks end to end, and the part of each in its shape."""
        with torch.inference_mode(False):
            flat = torch.empty(len(self._labels))
            sizes = [len(buffer.labels) for buffer in self.buffers]
            pairs = zip(flat.split(sizes), self.buffers, strict=True)
            return flat, [part.view(buffer.tensor.shape) for part, buffer in pairs]

    def read(self) -> BoolArray:
        """Which labels are alive by the buffers; those that no buffer stands for are.

        Raises:
            InputError: A mask has other values than 0 and 1, or two disagree.
        """
        return self._decode({b.keys[0]: b.tensor for b in self.buffers}, 'the supernet')

    def read_state(self, state: Mapping[str, Any], prefix: str) -> BoolArray:
        """Which labels are alive by the masks in a state dict; a missing mask keeps all.

        Args:
            state: A state dict.
            prefix: What stands before the supernet's own names in it.

        Raises:
            InputError: A mask has another size or other values than 0 and 1, or two disagree.
        """
        stored = {
            key: state.get(prefix + key, torch.ones(mask.shape))
            for key, mask in self.by_key().items()
        }
        return self._decode(stored, 'the state dict')

    def fill(self, state: dict[str, Any], prefix: str) -> None:
        """Add the masks that a state dict does not have, keeping everything."""
        for key, mask in self.by_key().items():
            state.setdefault(prefix + key, torch.ones_like(mask))

    def _decode(self, tensors: Mapping[str, torch.Tensor], source: str) -> BoolArray:
        labels_of = {key: b.labels for b in self.buffers for key in b.keys}
        masks: dict[str, BoolArray] = {}
        for key, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.is_sparse:
                raise InputError(f"the masks of {source}: '{key}' is no tensor of real numbers")
            values = tensor.detach().cpu().double().numpy().ravel()
            if len(values) != len(labels_of[key]):
                raise InputError(
                    f"the masks of {source}: '{key}' is for {len(values)} channels, the layer "
                    f'has {len(labels_of[key])}'
                )
            if not np.isin(values, (0, 1)).all():
                raise InputError(f"the masks of {source}: '{key}' has values other than 0 and 1")
            masks[key] = values != 0
        alive = np.ones(self.size, bool)
        for key, mask in masks.items():
            labels = labels_of[key]
            alive[labels[(labels >= 0) & ~mask]] = False
        for key, mask in masks.items():
            agreed = kept(alive, labels_of[key])
            if (agreed != mask).any():
                raise InputError(
                    f"the masks of {source} disagree: '{key}' keeps {int(mask.sum())} of "
                    f'{len(mask)} channels, of which other layers keep {int(agreed.sum())}; all '
                    'masks must come from one supernet'
                )
        return alive
