"""Operations that only move data: views, permutations, joins and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmprune.trace.parsers.saved import Parsed, parser, plain, register

# Same elements in the same order: the output's shape says everything.
register(
    'view',
    'ViewBackward', 'UnsafeViewBackward', 'ReshapeAliasBackward', 'UnsqueezeBackward',
    'SqueezeBackward', 'FlattenBackward', 'UnflattenBackward', 'ReshapeBackward',
)  # fmt: skip
register('expand', 'ExpandBackward')
register('transpose', 'TransposeBackward', dim0='dim0', dim1='dim1')
register('permute', 'PermuteBackward', dims='dims')
register('cat', 'CatBackward', dim='dim')
register('stack', 'StackBackward', dim='dim')
register(
    'split',
    'SplitBackward', 'SplitWithSizesBackward', 'UnsafeSplitBackward',
    'UnsafeSplitWithSizesBackward', 'ChunkBackward',
    dim='dim',
)  # fmt: skip
register('unbind', 'UnbindBackward', dim='dim')
register('select', 'SelectBackward', dim='dim', index='index')
register('slice', 'SliceBackward', dim='dim', start='start', end='end', step='step')
register('pad', 'ConstantPadNdBackward', pad='pad')
register('roll', 'RollBackward', dims='dims', shifts='shifts')
register('flip', 'FlipBackward', dims='dims')
register('repeat', 'RepeatBackward', repeats='repeats')
register('pixel_shuffle', 'PixelShuffleBackward', factor='upscale_factor')
register('pixel_unshuffle', 'PixelUnshuffleBackward', factor='downscale_factor')


@parser('TBackward')
def _t(grad_fn: Any) -> Parsed:
    # A vector, such as the weight of a linear product, is what it was.
    is_matrix = len(grad_fn._input_metadata[0].shape) == 2
    return ('transpose', {'dim0': -1, 'dim1': -2}) if is_matrix else ('view', {})


@parser('TrilBackward', 'TriuBackward')
def _triangle(grad_fn: Any) -> Parsed:
    """The largest triangle of a matrix, or all of it but for the diagonal."""
    is_lower = 'Tril' in grad_fn.name()
    diagonal = int(grad_fn._saved_diagonal) * (-1 if is_lower else 1)
    return 'triangle', {'is_ordered': diagonal in (0, 1)}


register('as_strided', 'AsStridedBackward', size='size', stride='stride', offset='storage_offset')
# inputs: the tensor that was written into, then what was written
register('copy_slices', 'CopySlices')
register('unfold', 'Im2ColBackward')
register('fold', 'Col2ImBackward')
register('windows', 'UnfoldBackward', dim='dimension')
# Sequences of several lengths, packed into rows or padded to one length: the last dim stays.
register('rows', 'PackPaddedSequenceBackward', 'PadPackedSequenceBackward')
register('fft', 'FftR2CBackward', 'FftC2RBackward', 'FftC2CBackward', dims='dim')
register('view_as_complex', 'ViewAsComplexBackward')
register('view_as_real', 'ViewAsRealBackward')


register('channel_shuffle', 'ChannelShuffleBackward', groups='groups')
register('gather', 'GatherBackward', dim='dim')
# inputs: the tensor that is written into, then what is written to positions of ``dim``
register(
    'scatter',
    'ScatterBackward', 'ScatterAddBackward', 'ScatterReduceBackward', 'IndexAddBackward',
    'IndexCopyBackward', 'IndexReduceBackward', 'IndexFillBackward',
    dim='dim',
)  # fmt: skip


@parser('IndexSelectBackward')
def _index_select(grad_fn: Any) -> Parsed:
    dim = plain(grad_fn._saved_dim) % len(grad_fn._saved_self_sym_sizes)
    return 'index', {'picked': (dim,), 'index_rank': 1}


def _picked(indices: Sequence[torch.Tensor | None]) -> dict[str, Any]:
    """``picked``: dims with an index; ``index_rank``: dims of the broadcast indices.

    A mask picks as many dims as it has, and gives one.
    """
    picked: list[int] = []
    ranks, dim = [0], 0
    for index in indices:
        is_mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        rank = 0 if index is None else index.dim()
        size = rank if is_mask else 1
        if index is not None:
            picked += range(dim, dim + size)
            # Of a single truth value nobody knows what it picks.
            ranks.append((1 if rank else -1) if is_mask else rank)
        dim += size
    return {'picked': tuple(picked), 'index_rank': -1 if -1 in ranks else max(ranks)}


@parser('IndexBackward', 'UnsafeIndexBackward')
def _index(grad_fn: Any) -> Parsed:
    return 'index', _picked(grad_fn._saved_indices)


@parser('IndexPutBackward', 'IndexPutImplBackward', 'UnsafeIndexPutBackward')
def _index_put(grad_fn: Any) -> Parsed:
    """Inputs: the tensor that is written into, what is written."""
    indices = grad_fn._saved_indices
    shapes = [tuple(index.shape) for index in indices if index is not None]
    return 'index_put', {**_picked(indices), 'indices': tuple(shapes)}
