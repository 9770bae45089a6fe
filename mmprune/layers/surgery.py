"""Cut the channels of one layer by hand, in place.

These functions know one layer and nothing of its neighbours: who cuts the outputs of one has to
cut the inputs of those that read them, and ``layers.check_fits`` says where that was forgotten.
``pruner.plan`` finds all of them by itself and is what most people want.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError, check_choice
from mmprune.layers.computed import renew_computed_weights
from mmprune.layers.cut import cut_of_masks
from mmprune.layers.layer import check_equal, known_masks
from mmprune.layers.slicers import mended_attributes
from mmprune.trace.kinds import CONVS, TRANSPOSED_CONVS

Masks = dict[str, list[BoolArray]]
"""Local tensor name -> masks of the tensor's rank, as ``cut_of_masks`` takes them."""
Rule = Callable[[Any, str, BoolArray], Masks]
"""``rule(module, side, keep)``: what of the module's tensors stays; ``side`` is 'in' or 'out'."""


def prune_out_channels(module: nn.Module, index: Iterable[int], name: str = '') -> nn.Module:
    """Remove output channels of one layer.

    A norm, a PReLU or a depthwise convolution has as many inputs as outputs and loses both.
    A recurrent layer loses hidden units (of a projection, if it has one) of all its layers and
    directions; an attention layer loses whole heads with the inputs and outputs of these numbers.

    Args:
        module: The layer; it is changed.
        index: Channels to remove, counted from 0.
        name: Its name, for messages.

    Returns:
        ``module`` itself. Its parameters are new ones: an optimizer must be made afterwards.

    Raises:
        InputError: The layer is of another type, has no such channel, would be empty, or its
            groups would not keep equally many. Nothing is changed then.
    """
    return _prune(module, 'out', index, name)


def prune_in_channels(module: nn.Module, index: Iterable[int], name: str = '') -> nn.Module:
    """Remove input channels of one layer; see ``prune_out_channels``.

    A ``Bilinear`` loses channels of its first input.
    """
    return _prune(module, 'in', index, name)


def channels_of(module: nn.Module, side: str, name: str = '') -> int:
    """How many ``'in'`` or ``'out'`` channels a layer has.

    Raises:
        InputError: No rule is known for its type.
    """
    attributes, _ = _row(module, side, name)
    attribute = attributes[0] if side == 'in' else attributes[1]
    if attribute is None:
        raise InputError(
            f'{called(module, name)}: its inputs are no channels; only its outputs can be cut'
        )
    value = getattr(module, attribute)
    if attribute == 'hidden_size' and getattr(module, 'proj_size', False):
        value = module.proj_size
    return int(value if isinstance(value, int) else value[-1])


def called(module: nn.Module, name: str) -> str:
    """A layer for a message: its name and type."""
    return f"layer '{name}' ({type(module).__name__})" if name else f'a {type(module).__name__}'


def _prune(module: nn.Module, side: str, index: Iterable[int], name: str) -> nn.Module:
    where = called(module, name)
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return module  # one slope for all channels
    size = channels_of(module, side, name)
    keep = kept_after(where, size, index)
    if keep.all():
        return module
    _, rule = _row(module, side, name)
    try:
        masks = rule(module, side, keep)
        cuts = {
            local: cut_of_masks(getattr(module, local).shape, own) for local, own in masks.items()
        }
    except ValueError as error:
        raise InputError(f'{where}: {error}; it would keep {keep.sum()} of {size}') from error
    tensors = {**module._parameters, **module._buffers}
    shapes = {n: tuple(t.shape) for n, t in tensors.items() if t is not None}
    shapes.update({local: cut.shape for local, cut in cuts.items()})
    attributes = _attributes(module, shapes, keep)
    for local, cut in cuts.items():
        _replace(module, local, cut(getattr(module, local).detach()).clone())
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    if isinstance(module, nn.MultiheadAttention):
        for half in ('in', 'out'):
            _prune(module.out_proj, half, np.flatnonzero(~keep), f'{name}.out_proj')
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()
    renew_computed_weights(module)
    return module


def kept_after(where: str, size: int, index: Iterable[int], at_least: int = 1) -> BoolArray:
    """Which of ``size`` channels stay if those of ``index`` go.

    Raises:
        InputError: There is no such channel, or fewer than ``at_least`` would be left; ``where``
            begins the message.
    """
    if not isinstance(index, Iterable):
        raise InputError(f'{where}: expected numbers of channels, found {index!r}')
    numbers = index.tolist() if isinstance(index, torch.Tensor | np.ndarray) else list(index)
    wrong = [
        i
        for i in numbers
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or not 0 <= i < size
    ]
    if wrong:
        raise InputError(f'{where}: has no channel {wrong[0]!r}, only 0 to {size - 1}')
    keep = np.ones(size, bool)
    keep[np.array(numbers, int)] = False
    if keep.sum() < at_least:
        raise InputError(f'{where}: would keep 0 of {size} channels; at least 1 must stay')
    return keep


def _replace(module: nn.Module, local: str, part: torch.Tensor) -> None:
    old = getattr(module, local)
    if isinstance(old, nn.Parameter):
        module._parameters[local] = nn.Parameter(part, requires_grad=old.requires_grad)
    else:
        module._buffers[local] = part
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]


def _attributes(module: nn.Module, shapes: Any, keep: BoolArray) -> dict[str, Any]:
    """What the forward reads, mended; sizes that no tensor tells are the kept channels."""
    channels = int(keep.sum())
    found = mended_attributes(module, shapes, channels)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is None:
        found['normalized_shape'] = (channels,)
    return found


# -- which tensors a type of layer has along its channels ------------------------------------


def _known(module: Any, side: str, keep: BoolArray) -> Masks:
    if 'weight' not in module._parameters:
        raise ValueError('its weight is computed from other tensors; use pruner.plan')
    groups = getattr(module, 'groups', 1)
    if groups > 1 and 1 in (module.in_channels // groups, module.out_channels // groups):
        # Each group has one input or one output: whole groups go, with both of their sides.
        sides = {'in': module.in_channels, 'out': module.out_channels}
        blocks = keep.reshape(groups, -1)
        if (blocks != blocks[:, :1]).any():
            raise ValueError(
                f'each of its {groups} groups goes as a whole, {blocks.shape[1]} {side} channels'
            )
        masks = {s: np.repeat(blocks[:, 0], size // groups) for s, size in sides.items()}
        return known_masks(module, masks['in'], masks['out'], groups)
    rows = 'in' if isinstance(module, TRANSPOSED_CONVS) else 'out'
    if groups > 1 and side == rows:
        check_equal(keep.reshape(groups, -1).sum(axis=1))
    if side == 'in':
        return known_masks(module, keep, None, groups)
    return known_masks(module, None, keep, groups)


def _norm(module: Any, side: str, keep: BoolArray) -> Masks:
    shape = getattr(module, 'normalized_shape', ())
    if len(shape) > 1:
        raise ValueError(f'it normalises over {len(shape)} dims at once, {tuple(shape)}')
    if isinstance(module, nn.GroupNorm):
        check_equal(keep.reshape(module.num_groups, -1).sum(axis=1))
    return known_masks(module, None, keep)


def _prelu(module: Any, side: str, keep: BoolArray) -> Masks:
    return {'weight': [keep]}


def _embedding(module: Any, side: str, keep: BoolArray) -> Masks:
    return {'weight': [keep.reshape(1, -1)]}


def _bilinear(module: Any, side: str, keep: BoolArray) -> Masks:
    if side == 'in':
        return {'weight': [keep.reshape(1, -1, 1)]}
    bias = {'bias': [keep]} if module.bias is not None else {}
    return {'weight': [keep.reshape(-1, 1, 1)], **bias}


def _recurrent(module: Any, side: str, keep: BoolArray) -> Masks:
    """Rows of gates, columns of what is fed back, columns of the layer above."""
    masks: Masks = {}
    for local, tensor in module.named_parameters(recurse=False):
        kind, layer = local.rsplit('_l', 1) if '_l' in local else (local, '0')
        is_first = layer.removesuffix('_reverse') == '0'
        if side == 'in':
            if kind == 'weight_ih' and is_first:
                masks[local] = [keep.reshape(1, -1)]
            continue
        projected = bool(getattr(module, 'proj_size', 0))
        own: list[BoolArray] = []
        if kind == 'weight_hr':
            own.append(keep.reshape(-1, 1))
        elif not projected:
            gates = np.tile(keep, tensor.shape[0] // len(keep))
            own.append(gates.reshape(-1, *(1,) * (tensor.dim() - 1)))
        if kind == 'weight_hh':
            own.append(keep.reshape(1, -1))
        if kind == 'weight_ih' and not is_first:
            own.append(np.tile(keep, tensor.shape[1] // len(keep)).reshape(1, -1))
        if own:
            masks[local] = own
    return masks


def _attention(module: Any, side: str, keep: BoolArray) -> Masks:
    if module.in_proj_weight is None or module.bias_k is not None:
        raise ValueError('its inputs are of different widths or extended; use pruner.plan')
    heads = keep.reshape(module.num_heads, -1)
    if (heads != heads[:, :1]).any():
        raise ValueError(
            f'its width, heads and outputs are one number: remove whole heads, '
            f'{module.head_dim} channels each'
        )
    fused = np.tile(keep, 3)
    masks: Masks = {'in_proj_weight': [fused.reshape(-1, 1), keep.reshape(1, -1)]}
    if module.in_proj_bias is not None:
        masks['in_proj_bias'] = [fused]
    return masks


_CHANNELS, _FEATURES = ('in_channels', 'out_channels'), ('in_features', 'out_features')
_ROWS: list[tuple[Any, tuple[str | None, str], Rule]] = [
    ((*CONVS, *TRANSPOSED_CONVS), _CHANNELS, _known),
    (nn.Linear, _FEATURES, _known),
    (nn.modules.batchnorm._NormBase, ('num_features',) * 2, _norm),
    (nn.GroupNorm, ('num_channels',) * 2, _norm),
    ((nn.LayerNorm, nn.RMSNorm), ('normalized_shape',) * 2, _norm),
    (nn.PReLU, ('num_parameters',) * 2, _prelu),
    (nn.Embedding, (None, 'embedding_dim'), _embedding),
    (nn.Bilinear, ('in1_features', 'out_features'), _bilinear),
    ((nn.RNNBase, nn.RNNCellBase), ('input_size', 'hidden_size'), _recurrent),
    (nn.MultiheadAttention, ('embed_dim',) * 2, _attention),
]
"""(types, names of the attributes that count inputs and outputs, rule)."""


def rule_of(module: nn.Module) -> tuple[tuple[str | None, str], Rule] | None:
    """How a layer's channels are counted and cut; None for an unknown type."""
    return next((row[1:] for row in _ROWS if isinstance(module, row[0])), None)


def _row(module: nn.Module, side: str, name: str) -> tuple[tuple[str | None, str], Rule]:
    check_choice('side', side, ('in', 'out'))
    row = rule_of(module)
    if row is None:
        kinds = ', '.join(
            kind.__name__ for types, *_ in _ROWS
            for kind in (types if isinstance(types, Sequence) else (types,))
        )  # fmt: skip
        raise InputError(f'{called(module, name)}: no channels to cut; known types are {kinds}')
    return row
