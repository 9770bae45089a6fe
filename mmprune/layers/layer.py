"""The layers of a traced model: which labels run along their inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.channels.labels import IntArray
from mmprune.channels.propagate import Labelling
from mmprune.trace.kinds import CONVS, NORMS, TRANSPOSED_CONVS
from mmprune.trace.walk import buffers_of, modules_of, parameters_of


@dataclass(frozen=True)
class Layer:
    """One module that owns tensors with labels, or normalises labelled channels.

    Attributes:
        name: Dotted module name.
        inputs: Label of every input channel; None for a norm or an unknown type.
        outputs: Label of every output channel; None for an unknown type. Labels below 0
            stand for channels that always stay.
        mask_rank: Number of dims of the mask buffers.
        tensors: Local tensor name -> its label arrays, for all of its tensors.
        known: Local names of tensors that follow from ``inputs`` and ``outputs``.
        is_computed: Whether its weight is a function of other tensors (``weight_norm``).
    """

    name: str
    inputs: IntArray | None
    outputs: IntArray | None
    mask_rank: int
    tensors: dict[str, list[IntArray]] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    is_computed: bool = False

    @property
    def labels(self) -> list[IntArray]:
        """All of its label arrays."""
        sides = [side for side in (self.inputs, self.outputs) if side is not None]
        return [*sides, *(factor for own in self.tensors.values() for factor in own)]


def loses_groups(groups: int, in_channels: int, out_channels: int) -> bool:
    """Whether a convolution loses whole groups: each has one input or one output."""
    return groups > 1 and groups in (in_channels, out_channels)


def weight_shape(module: Any, inputs: int, outputs: int) -> tuple[int, int]:
    """First two dims of the weight of a layer with these numbers of channels.

    ``module`` has its full-size attributes.
    """
    if isinstance(module, nn.Linear):
        return outputs, inputs
    if loses_groups(module.groups, module.in_channels, module.out_channels):
        inputs_now, outputs_now = module.in_channels, module.out_channels
    else:
        inputs_now, outputs_now = inputs, outputs
    per_input, per_output = inputs_now // module.groups, outputs_now // module.groups
    transposed = isinstance(module, TRANSPOSED_CONVS)
    return (inputs, per_output) if transposed else (outputs, per_input)


def known_masks(
    module: Any,
    in_mask: BoolArray | None,
    out_mask: BoolArray | None,
    groups: int = 1,
    may_lose_groups: bool = False,
) -> dict[str, list[BoolArray]]:
    """Masks of a layer's tensors, by local name, from its kept inputs and outputs.

    ``groups`` is the full-size number of a convolution's groups. With ``may_lose_groups`` some
    may be gone, with all of their inputs and outputs.

    Raises:
        ValueError: The masks do not suit the module's groups.
    """
    own = {**module._parameters, **module._buffers}
    tensors = {name: tensor for name, tensor in own.items() if tensor is not None}
    if isinstance(module, NORMS):
        names = ('weight', 'bias', 'running_mean', 'running_var')
        return {n: [out_mask] for n in names if out_mask is not None and n in tensors}
    bias = {'bias': [out_mask]} if out_mask is not None and 'bias' in tensors else {}
    if 'weight' not in tensors:
        return bias
    rank = module.weight.dim()
    masks: dict[str, list[BoolArray]] = {'weight': []}
    transposed = isinstance(module, TRANSPOSED_CONVS)
    rows, columns = (in_mask, out_mask) if transposed else (out_mask, in_mask)
    if rows is not None:
        masks['weight'].append(rows.reshape(-1, *(1,) * (rank - 1)))
    per_group, each = module.weight.shape[1], module.weight.shape[0] // groups
    if columns is not None:
        if groups > 1 and 1 in (per_group, each):
            _check_whole_groups(in_mask, out_mask, groups)
        elif groups > 1:
            counts = columns.reshape(groups, per_group).sum(axis=1)
            if may_lose_groups and rows is not None:
                counts = counts[(counts > 0) | rows.reshape(groups, each).any(axis=1)]
            check_equal(counts)
            columns = np.repeat(columns.reshape(groups, per_group), each, axis=0)
            masks['weight'].append(columns.reshape(-1, per_group, *(1,) * (rank - 2)))
        else:
            masks['weight'].append(columns.reshape(1, -1, *(1,) * (rank - 2)))
    return {**masks, **bias}


def check_equal(counts: IntArray) -> None:
    """Refuse groups of a layer that keep these numbers of channels, unless they are equal."""
    if counts.min() != counts.max():
        raise ValueError(
            f'its {len(counts)} groups keep between {counts.min()} and {counts.max()} channels; '
            'they must keep equally many'
        )


def _check_whole_groups(in_mask: BoolArray | None, out_mask: BoolArray | None, groups: int) -> None:
    """Refuse masks that keep a part of a group, where each has one input or one output."""
    sides = {'inputs': in_mask, 'outputs': out_mask}
    blocks = {n: mask.reshape(groups, -1) for n, mask in sides.items() if mask is not None}
    first = next(iter(blocks.values()))[:, :1]
    if any((block != first).any() for block in blocks.values()):
        kept = ' and '.join(f'{int(block.sum())} {name}' for name, block in blocks.items())
        raise ValueError(f'it is depthwise, but keeps {kept} that do not belong to each other')


def _along(factors: list[IntArray], dim: int, size: int) -> IntArray:
    for factor in factors:
        if factor.shape[dim] == factor.size and size > 1:
            return factor.ravel()
    return np.full(size, -1)


def _across(factors: list[IntArray], groups: int, rows: IntArray, channels: int) -> IntArray:
    """Labels of the channels that a convolution's weight has along its second dim.

    Args:
        factors: The label arrays of the weight.
        groups: Of the convolution.
        rows: The labels along its first dim.
        channels: How many channels the other side has.
    """
    per_group, each = channels // groups, len(rows) // groups
    if groups == 1:
        return _along(factors, 1, per_group)
    if per_group == 1:
        return rows[::each]
    for factor in factors:
        if factor.shape[1] > 1:
            columns = np.broadcast_to(factor, (len(rows), *factor.shape[1:]))
            return columns.reshape(len(rows), per_group)[::each].ravel()
    return np.full(channels, -1)


def layers_of(model: nn.Module, labelling: Labelling) -> dict[str, Layer]:
    """The layers of ``model``, by name, in the model's own order."""
    by_tensor = {
        id(tensor): labelling.tensors[name]
        for name, tensor in [*parameters_of(model).items(), *buffers_of(model).items()]
        if name in labelling.tensors
    }
    sites: dict[tuple[str, str], IntArray] = {}
    for site in labelling.sites:
        sites.setdefault((site.layer, site.role), site.labels)
    pinned = np.zeros(labelling.num_labels, bool)
    for labels, _ in labelling.pins:
        pinned[labels] = True
    found = {}
    for name, module in modules_of(model).items():
        held = {**module._parameters, **module._buffers}
        own = {local: by_tensor[id(t)] for local, t in held.items() if id(t) in by_tensor}
        layer = _layer(name, module, own, sites.get((name, 'norm')), pinned)
        if isinstance(module, (*CONVS, *TRANSPOSED_CONVS, nn.Linear)) and 'weight' not in held:
            layer = _computed(name, module, own, sites)
        if layer is not None:
            found[name] = layer
    return found


def with_unread_biases(
    model: nn.Module, labelling: Labelling, layers: Mapping[str, Layer]
) -> Labelling:
    """A labelling with the biases, too, of layers whose weights alone are read by other code."""
    modules = modules_of(model)
    unread = {
        f'{name}.bias' if name else 'bias': layer.outputs
        for name, layer in layers.items()
        if layer.outputs is not None and 'bias' in layer.known and 'bias' not in layer.tensors
        if modules[name]._parameters.get('bias') is not None
    }
    return replace(
        labelling,
        tensors={**labelling.tensors, **{name: [own] for name, own in unread.items()}},
        shapes={**labelling.shapes, **{name: own.shape for name, own in unread.items()}},
    )


def _computed(
    name: str,
    module: Any,
    own: dict[str, list[IntArray]],
    sites: dict[tuple[str, str], IntArray],
) -> Layer | None:
    """A layer whose weight is no tensor of its own: what it read and gave says its channels."""
    inputs, outputs = sites.get((name, 'in')), sites.get((name, 'out'))
    if inputs is None or outputs is None:
        return Layer(name, None, None, 1, own) if own else None
    rank = 2 if isinstance(module, nn.Linear) else len(module.kernel_size) + 2
    return Layer(name, inputs, outputs, rank, own, ('bias',), is_computed=True)


def _known_bias(own: dict[str, list[IntArray]], out: IntArray) -> tuple[str, ...]:
    """The bias, unless code that reads parts of it and of the weight leaves others apart."""
    along = _along(own.get('bias', []), 0, len(out))
    is_same = 'bias' not in own or np.array_equal(np.maximum(along, -1), np.maximum(out, -1))
    return ('bias',) if is_same else ()


def _layer(
    name: str,
    module: Any,
    own: dict[str, list[IntArray]],
    norm: IntArray | None,
    pinned: BoolArray,
) -> Layer | None:
    weight = own.get('weight')
    if isinstance(module, (*CONVS, *TRANSPOSED_CONVS)) and weight is not None:
        sides = module.in_channels, module.out_channels
        is_transposed = isinstance(module, TRANSPOSED_CONVS)
        size, other = sides if is_transposed else sides[::-1]
        rows = _along(weight, 0, size)
        columns = _across(weight, module.groups, rows, other)
        inputs, out = (rows, columns) if is_transposed else (columns, rows)
        # A kernel whose positions are channels of the input loses some of them.
        loses = any(f.shape[:2] == (1, 1) and not pinned[f[f >= 0]].all() for f in weight)
        known = (*(() if loses else ('weight',)), *_known_bias(own, out))
        return Layer(name, inputs, out, len(module.kernel_size) + 2, own, known)
    if isinstance(module, nn.Linear) and weight is not None:
        out = _along(weight, 0, module.out_features)
        inputs = _along(weight, 1, module.in_features)
        return Layer(name, inputs, out, 2, own, ('weight', *_known_bias(own, out)))
    over_last = isinstance(module, nn.LayerNorm | nn.RMSNorm)
    flat = not over_last or len(module.normalized_shape) == 1
    if isinstance(module, NORMS) and norm is not None and flat:
        rank = 2 if over_last or isinstance(module, nn.BatchNorm1d) else 4
        rank = 5 if isinstance(module, nn.BatchNorm3d) else rank
        known = ('weight', 'bias', 'running_mean', 'running_var')
        return Layer(name, None, norm, rank, own, known)
    return Layer(name, None, None, 1, own) if own else None
