"""Arithmetic: element-wise operations, reductions, softmax and matrix products."""

from __future__ import annotations

from typing import Any

import torch

from mmprune.trace.parsers.saved import Parsed, parser, plain, register, register_composite

# One output element from the elements at the same place of every input, after broadcasting.
register(
    'elementwise',
    'AddBackward', 'SubBackward', 'RsubBackward', 'NegBackward', 'AddcmulBackward',
    'AddcdivBackward', 'LerpBackward', 'WhereBackward', 'MaskedFillBackward',
    'MaximumBackward', 'MinimumBackward', 'Atan2Backward', 'FmaxBackward', 'FminBackward',
    'LogaddexpBackward', 'XlogyBackward', 'RemainderBackward', 'FmodBackward', 'PolarBackward',
    'HypotBackward', 'LdexpBackward', 'CopysignBackward', 'Logaddexp2Backward', 'ComplexBackward',
    'IgammaBackward', 'IgammacBackward', 'NextafterBackward', 'SpecialXlog1PyBackward',
    'SpecialZetaBackward',
    # one input
    'AbsBackward', 'AcosBackward', 'AliasBackward', 'AsinBackward', 'AtanBackward',
    'CeluBackward', 'ClampBackward', 'ClampMaxBackward', 'ClampMinBackward', 'CloneBackward',
    'ContiguousBackward', 'CopyBackwards', 'CosBackward', 'DetachBackward', 'EluBackward',
    'ErfBackward', 'ExpBackward', 'Expm1Backward', 'FloorBackward', 'CeilBackward',
    'RoundBackward', 'SignBackward', 'GeluBackward', 'HardshrinkBackward',
    'HardsigmoidBackward', 'HardswishBackward', 'LeakyReluBackward',
    'LogBackward', 'Log1PBackward', 'Log2Backward', 'Log10Backward', 'LogSigmoidBackward',
    'MishBackward', 'NativeDropoutBackward', 'FusedDropoutBackward', 'ReciprocalBackward',
    'ReluBackward', 'Relu6Backward', 'RreluWithNoiseBackward', 'RsqrtBackward', 'SeluBackward',
    'SigmoidBackward', 'SiluBackward', 'SinBackward', 'SoftplusBackward', 'SoftshrinkBackward',
    'SqrtBackward', 'TanhBackward', 'TanBackward', 'SinhBackward', 'CoshBackward',
    'ThresholdBackward', 'ToCopyBackward', 'PowBackward', 'NanToNumBackward', 'ErfcBackward',
    'AcoshBackward', 'AsinhBackward', 'AtanhBackward', 'Exp2Backward', 'FracBackward',
    'LogitBackward', 'SgnBackward', 'TruncBackward', 'ConjBackward', 'ConjPhysicalBackward',
    'PreluKernelBackward', 'ComparedBackward', 'StepwiseBackward', 'LgammaBackward',
    'DigammaBackward', 'PolygammaBackward', 'MvlgammaBackward', 'ErfinvBackward', 'I0Backward',
    'Deg2RadBackward', 'Rad2DegBackward', 'AngleBackward', 'SpecialEntrBackward',
    'SpecialErfcxBackward', 'SpecialI0EBackward', 'SpecialI1Backward', 'SpecialI1EBackward',
    'SpecialLogNdtrBackward', 'SpecialNdtriBackward',
)  # fmt: skip


@parser('torch.BackwardHookFunctionBackward')
def _hooked(grad_fn: Any) -> Parsed:
    """What a module with hooks on its backward pass is given, or gives: the same, if it is one."""
    return 'elementwise' if len(grad_fn.next_functions) == 1 else 'opaque', {}


@parser('MulBackward', 'DivBackward')
def _scale(grad_fn: Any) -> Parsed:
    """A product or quotient; a constant factor's shape is known only where it was saved."""
    saved = [getattr(grad_fn, f'_saved_{side}', None) for side in ('other', 'self')]
    constants = {
        side: tuple(tensor.shape)
        for side, (tensor, (producer, _)) in enumerate(
            zip(saved, reversed(grad_fn.next_functions), strict=False)
        )
        if isinstance(tensor, torch.Tensor) and producer is None
    }
    # index of the constant input -> its shape
    return 'elementwise', {'constants': {1 - side: shape for side, shape in constants.items()}}


@parser(
    'MeanBackward', 'SumBackward', 'MaxBackward', 'MinBackward', 'AmaxBackward',
    'AminBackward', 'ProdBackward', 'VarBackward', 'StdBackward', 'VarMeanBackward',
    'StdMeanBackward', 'LogsumexpBackward',
)  # fmt: skip
def _reduce(grad_fn: Any) -> Parsed:
    """A reduction over the saved dims, or over all where none was saved."""
    dim = plain(getattr(grad_fn, '_saved_dim', None))
    keepdim = bool(getattr(grad_fn, '_saved_keepdim', False))
    name = grad_fn.name().rpartition(':')[2].rstrip('0123456789').removesuffix('Backward')
    dims = (dim,) if isinstance(dim, int) else dim
    return 'reduce', {'dims': dims, 'keepdim': keepdim, 'how': name.lower()}


@parser('LinalgVectorNormBackward', 'NormBackward')
def _vector_norm(grad_fn: Any) -> Parsed:
    """A norm to which zeros add nothing, unless its order is 0 or negative."""
    op, attrs = _reduce(grad_fn)
    order = getattr(grad_fn, '_saved_ord', getattr(grad_fn, '_saved_p', None))
    is_positive = order is None or order > 0
    return op, {**attrs, 'how': 'vector_norm' if is_positive else attrs['how']}


register('elementwise', 'HardtanhBackward', low='min_val', high='max_val')
register('glu', 'GluBackward', dim='dim')
register('softmax', 'SoftmaxBackward', 'LogSoftmaxBackward', 'SafeSoftmaxBackward', dim='dim')
# Every position along ``dim`` comes from several of that dim, and from no others.
register(
    'along',
    'CummaxBackward', 'CumminBackward', 'LogcumsumexpBackward', 'TopkBackward',
    'KthvalueBackward', 'ModeBackward', 'SortBackward', 'CumsumBackward',
    dim='dim',
)  # fmt: skip
# A number of all elements and of targets.
register(
    'loss',
    'NllLossBackward', 'NllLoss2DBackward', 'NllLossNdBackward', 'BinaryCrossEntropyBackward',
    'BinaryCrossEntropyWithLogitsBackward', 'KlDivBackward', 'SoftMarginLossBackward',
    'MultiMarginLossBackward', 'MultilabelMarginLossBackward', 'CtcLossBackward',
)  # fmt: skip


@parser('MseLossBackward', 'SmoothL1LossBackward', 'HuberLossBackward')
def _distance(grad_fn: Any) -> Parsed:
    """What two tensors differ by, element by element, or the mean or sum of that."""
    how = ('none', 'mean', 'sum')[grad_fn._saved_reduction]
    return ('elementwise', {}) if how == 'none' else ('distance', {'how': how})


register('matmul', 'MmBackward', 'BmmBackward')
register('mv', 'MvBackward')
register('dot', 'DotBackward', 'VdotBackward')
register('cdist', 'CdistBackward', 'EuclideanDistBackward')
# inputs: what is added, then the two factors
register('addmm', 'AddmmBackward', 'BaddbmmBackward')


register_composite('attention', 'AttentionBackward')


@parser(
    'ScaledDotProductFlashAttentionForCpuBackward', 'ScaledDotProductFlashAttentionBackward',
    'ScaledDotProductEfficientAttentionBackward', 'ScaledDotProductCudnnAttentionBackward',
    'ScaledDotProductFusedAttentionOverrideableBackward',
)  # fmt: skip
def _attention(grad_fn: Any) -> Parsed:
    """Inputs: queries (..., n, d), keys (..., m, d), values (..., m, e), perhaps a bias."""
    return 'attention', {'is_scaled_by_width': getattr(grad_fn, '_saved_scale', None) is None}
