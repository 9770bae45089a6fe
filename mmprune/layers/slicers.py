"""Attributes that a module's forward reads, mended for the size that its tensors have.

The contract of a slicer, the same for all of them:

    slicer(module, shapes, channels) -> {attribute: value}

``shapes`` has the new shape of every tensor that the module itself owns; ``channels`` is
the new number of channels of a norm (it may have no tensor to tell it). The module has its
full-size attributes and is not changed. For example, for a depthwise convolution of 8
channels of which 5 are kept:

    SLICERS['Conv2d'](conv, {'weight': (5, 1, 3, 3)}, None)
        == {'in_channels': 5, 'out_channels': 5, 'groups': 5}

A slicer is found by the class name of the module or of its nearest base, or by the class's
full name (``torch.nn.modules.activation.MultiheadAttention``) where the short one is common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmprune.layers.layer import loses_groups
from mmprune.registry import SLICERS, table

Shapes = Mapping[str, tuple[int, ...]]
Attributes = dict[str, Any]
Slicer = Callable[[Any, Shapes, int | None], Attributes]


def slicer_of(module: Any) -> Slicer | None:
    """The slicer for a module's type, None if it has no attributes to mend."""
    slicers = table(SLICERS)
    for cls in type(module).__mro__:
        for name in (f'{cls.__module__}.{cls.__qualname__}', cls.__name__):
            if name in slicers:
                return slicers[name]
    return None


def mended_attributes(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
    """The attributes that differ from the module's own."""
    slicer = slicer_of(module)
    if slicer is None:
        return {}
    values = slicer(module, shapes, channels)
    return {name: value for name, value in values.items() if getattr(module, name) != value}


def _register(*names: str) -> Callable[[Slicer], Slicer]:
    def decorate(function: Slicer) -> Slicer:
        SLICERS.register_module(name=list(names), module=function)
        return function

    return decorate


def _conv(first: str, second: str) -> Slicer:
    def mend(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
        size, per_group = shapes['weight'][:2]
        groups = module.groups
        if loses_groups(groups, module.in_channels, module.out_channels):
            groups = size * module.groups // getattr(module, first)
        kernel = tuple(shapes['weight'][2:]) or module.kernel_size
        return {
            first: size, second: per_group * groups, 'groups': groups, 'kernel_size': kernel
        }  # fmt: skip

    return mend


_register('Conv1d', 'Conv2d', 'Conv3d')(_conv('out_channels', 'in_channels'))
_register('ConvTranspose1d', 'ConvTranspose2d', 'ConvTranspose3d')(
    _conv('in_channels', 'out_channels')
)


def _dims(**dims: tuple[str, int]) -> Slicer:
    """Every attribute is the size of a dim of a tensor."""
    return lambda module, shapes, channels: {n: shapes[t][dim] for n, (t, dim) in dims.items()}


_register('Linear')(_dims(in_features=('weight', 1), out_features=('weight', 0)))
_register('PReLU')(_dims(num_parameters=('weight', 0)))
_register('RNNCellBase')(_dims(input_size=('weight_ih', 1), hidden_size=('weight_hh', 1)))
_register('Embedding', 'EmbeddingBag')(
    _dims(num_embeddings=('weight', 0), embedding_dim=('weight', 1))
)
_register('Bilinear')(
    _dims(out_features=('weight', 0), in1_features=('weight', 1), in2_features=('weight', 2))
)


def _norm(name: str) -> Slicer:
    def mend(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
        sizes = [shape[0] for shape in shapes.values() if shape]
        return {name: sizes[0] if sizes else channels or getattr(module, name)}

    return mend


_register('_BatchNorm', '_NormBase')(_norm('num_features'))
_register('GroupNorm')(_norm('num_channels'))


@_register('LayerNorm', 'RMSNorm')
def _layer_norm(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
    if shapes:
        return dict(normalized_shape=tuple(next(iter(shapes.values()))))
    return {}  # without a weight, the shape is one of the stored numbers


@_register('RNNBase')
def _recurrent(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
    gates = {'LSTM': 4, 'GRU': 3}.get(module.mode, 1)
    rows, input_size = shapes['weight_ih_l0']
    projection = shapes.get('weight_hr_l0', (0,))
    return dict(input_size=input_size, hidden_size=rows // gates, proj_size=projection[0])


@_register('torch.nn.modules.activation.MultiheadAttention')
def _multihead_attention(module: Any, shapes: Shapes, channels: int | None) -> Attributes:
    """Whole heads, or channels of the only one; widths of queries, keys, values are one number."""
    # A weight that a mask or a parametrisation computes has another name, or is elsewhere.
    known = {name.removesuffix('_orig'): shape for name, shape in shapes.items()}
    if 'in_proj_weight' in known:
        inner, width = known['in_proj_weight'][0] // 3, known['in_proj_weight'][1]
    elif 'q_proj_weight' in known:
        inner, width = known['q_proj_weight']
    elif 'in_proj_bias' in known:
        inner = width = known['in_proj_bias'][0] // 3
    else:
        return {}
    return dict(
        embed_dim=inner,
        num_heads=max(1, inner // module.head_dim),
        head_dim=inner if module.num_heads == 1 else module.head_dim,
        kdim=known['k_proj_weight'][1] if 'k_proj_weight' in known else width,
        vdim=known['v_proj_weight'][1] if 'v_proj_weight' in known else width,
    )
