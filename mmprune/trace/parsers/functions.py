"""Functions of autograd in OpenMMLab's packages, which need not be there.

They are found by their package and their name, ``mmcv.RoIAlignFunctionBackward``, so that one of
the same name from elsewhere is not taken for them.
"""

from __future__ import annotations

from typing import Any

from mmprune.trace.parsers.saved import Parsed, parser, register

register('loss', 'mmcv.SigmoidFocalLossFunctionBackward', 'mmcv.SoftmaxFocalLossFunctionBackward')
# Inputs: data (N, C, *space), and boxes (K, ...), of each of which C channels are read.
register(
    'regions',
    'mmcv.RoIAlignFunctionBackward', 'mmcv.RoIPoolFunctionBackward',
    'mmcv.RoIAlignRotatedFunctionBackward', 'mmcv.PrRoIPoolFunctionBackward',
    'mmcv.DeformRoIPoolFunctionBackward', 'mmcv.BezierAlignFunctionBackward',
)  # fmt: skip
# Inputs: data, boxes of its places.
register('spatial', 'mmcv.RotatedFeatureAlignFunctionBackward')


@parser('mmcv.CARAFEFunctionBackward', 'mmcv.CARAFENaiveFunctionBackward')
def _carafe(grad_fn: Any) -> Parsed:
    """Inputs: data, kernels of its places, the same for all channels or for a group of them."""
    return ('spatial' if grad_fn.group_size == 1 else 'opaque'), {}


@parser('mmcv.DeformConv2dFunctionBackward')
def _deform_conv(grad_fn: Any) -> Parsed:
    """Inputs: data, offsets, weight."""
    return _deformed(grad_fn, 1)


@parser('mmcv.ModulatedDeformConv2dFunctionBackward')
def _modulated_deform_conv(grad_fn: Any) -> Parsed:
    """Inputs: data, offsets, factors of what is read, weight, bias."""
    return _deformed(grad_fn, 2)


def _deformed(grad_fn: Any, places: int) -> Parsed:
    return 'deform_conv', {
        'groups': int(grad_fn.groups),
        'transposed': False,
        'blocks': int(grad_fn.deform_groups),
        'places': places,
    }


@parser('mmcv.MaskedConv2dFunctionBackward')
def _masked_conv(grad_fn: Any) -> Parsed:
    """Inputs: data, places that are computed, weight, bias."""
    return 'deform_conv', {'groups': 1, 'transposed': False, 'blocks': 1, 'places': 1}


# Inputs: values (n, keys, heads, c), sizes and starts of levels, places, weights.
register('deform_attention', 'mmcv.MultiScaleDeformableAttnFunctionBackward')
