"""Layers with weights of their own, and what moves a window over space."""

from __future__ import annotations

from typing import Any

from mmprune.trace.parsers.saved import Parsed, parser, plain, register, register_composite


@parser(
    'ConvolutionBackward', 'ConvolutionOverrideableBackward', 'ThnnConv2DBackward',
    'SlowConv2DBackward', 'SlowConv3DBackward', 'MkldnnConvolutionBackward',
    'CudnnConvolutionBackward', 'CudnnConvolutionTransposeBackward', 'ConvDepthwise2DBackward',
    'ConvDepthwise3DBackward', 'MiopenConvolutionBackward', 'NnpackSpatialConvolutionBackward',
)  # fmt: skip
def _convolution(grad_fn: Any) -> Parsed:
    """Inputs: data (N, C, *space), weight, bias."""
    transposed = getattr(grad_fn, '_saved_transposed', 'Transpose' in grad_fn.name())
    return 'conv', {
        'groups': int(getattr(grad_fn, '_saved_groups', 1)),
        'transposed': bool(transposed),
        'padding': plain(getattr(grad_fn, '_saved_padding', ())),
    }


@parser('GroupedMmBackward')
def _grouped_mm(grad_fn: Any) -> Parsed:
    """Inputs: rows (T, K) or (E, T, K), weights (E, K, N). The kernel reads runs of 16 bytes."""
    rows = getattr(grad_fn, '_saved_self', None)
    strides = plain(getattr(grad_fn, '_saved_mat2_sym_strides', ()))
    width = rows.shape[-1] if rows is not None else 8
    # Of the type that a network is deployed in, which is often bfloat16.
    block = 8 if rows is None or width % 8 == 0 else 16 // rows.element_size()
    return 'grouped_matmul', {'block': block, 'columns_last': strides[-1:] == (1,)}


@parser(
    'NativeBatchNormBackward', 'CudnnBatchNormBackward', 'MiopenBatchNormBackward',
    'NativeBatchNormLegitBackward', 'NativeBatchNormLegitNoTrainingBackward',
    'BatchNormImplBackward', 'BatchNormWithUpdateBackward',
)  # fmt: skip
def _batch_norm(grad_fn: Any) -> Parsed:
    """Inputs: data (N, C, *space), weight, bias; each of the last two may be missing."""
    statistics = [getattr(grad_fn, f'_saved_running_{name}', None) for name in ('mean', 'var')]
    return 'batch_norm', {'buffer_tensors': tuple(s for s in statistics if s is not None)}


@parser('KeptBackward')
def _kept(grad_fn: Any) -> Parsed:
    """Inputs: what a module has given, the numbers of the channels that are picked of it."""
    return 'kept', {'dim': grad_fn.dim}


# As a batch norm: statistics per channel.
register_composite('batch_norm', 'InstanceNormBackward')
register_composite('rms_norm', 'RmsNormBackward')
# Inputs: data, states, weights, as ``mmprune.trace.recurrent`` gives them.
register_composite('recurrent', 'RecurrentBackward')
# Inputs: directions, lengths; ``dim``: what has a length each, -1 for the whole tensor.
register_composite('weight_norm', 'WeightNormBackward')
# A constant as wide as numbers of the trace say; its input is a token of the trace, or alike.
register_composite('filled', 'FilledBackward')
register('layer_norm', 'NativeLayerNormBackward', normalized_shape='normalized_shape')
register('group_norm', 'NativeGroupNormBackward', groups='group')

# inputs: weight, perhaps weights of the rows
register('embedding', 'EmbeddingBackward', 'EmbeddingBagBackward')


@parser('TrilinearBackward')
def _bilinear(grad_fn: Any) -> Parsed:
    """Inputs: data (n, i), weight (o, i, j), data (n, j), as nn.Bilinear gives them."""
    dims = tuple(getattr(grad_fn, f'_saved_{n}') for n in ('expand1', 'expand2', 'expand3'))
    is_layer = dims == ((1, 3), (0,), (1, 2)) and tuple(grad_fn._saved_sumdim) == (2, 3)
    return ('bilinear', {}) if is_layer else ('opaque', {})


# The last two dims are space; every other dim is kept as it is.
register(
    'spatial',
    'AvgPool2DBackward', 'AdaptiveAvgPool2DBackward', 'MaxPool2DWithIndicesBackward',
    'AdaptiveMaxPool2DBackward', 'FractionalMaxPool2DBackward',
    'UpsampleNearest2DBackward', 'UpsampleNearestExact2DBackward', 'UpsampleBilinear2DBackward',
    'UpsampleBicubic2DBackward', 'UpsampleBilinear2DAaBackward', 'UpsampleBicubic2DAaBackward',
    'GridSampler2DBackward', 'CudnnGridSamplerBackward',
    'ReflectionPad2DBackward', 'ReplicationPad2DBackward', 'MaxUnpool2DBackward',
)  # fmt: skip
register(
    'spatial1d',
    'UpsampleNearest1DBackward', 'UpsampleLinear1DBackward', 'ReflectionPad1DBackward',
    'ReplicationPad1DBackward', 'MaxPool1DBackward',
)  # fmt: skip
register(
    'spatial3d',
    'AvgPool3DBackward', 'AdaptiveAvgPool3DBackward', 'MaxPool3DWithIndicesBackward',
    'AdaptiveMaxPool3DBackward', 'UpsampleNearest3DBackward', 'UpsampleTrilinear3DBackward',
    'ReplicationPad3DBackward', 'ReflectionPad3DBackward', 'GridSampler3DBackward',
    'MaxUnpool3DBackward',
)  # fmt: skip
