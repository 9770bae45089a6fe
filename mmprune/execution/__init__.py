"""Run a subnet inside the supernet: by masks or by slices, with one semantics."""

from mmprune.execution.execution import Execution
from mmprune.execution.instrument import local_tensors
from mmprune.execution.loading import Follow
from mmprune.execution.mask_buffers import MASK_NAMES, MaskBuffers
from mmprune.execution.prunable import prunable_statistics, prunable_tensors
from mmprune.execution.ready import preparing
from mmprune.execution.release import plain_copy, release, replaced_preparation
from mmprune.execution.switchable_norms import SwitchableNorms

__all__ = [
    'MASK_NAMES',
    'Execution',
    'Follow',
    'MaskBuffers',
    'SwitchableNorms',
    'local_tensors',
    'plain_copy',
    'preparing',
    'prunable_statistics',
    'prunable_tensors',
    'release',
    'replaced_preparation',
]
