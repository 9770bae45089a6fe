"""Run a subnet inside the supernet: by masks or by slices, with one semantics."""

from mmprune.execution.instrument import (
    Execution,
    kept_norms,
    local_tensors,
    prunable_tensors,
    release,
)
from mmprune.execution.mask_buffers import MaskBuffers

__all__ = [
    'Execution',
    'MaskBuffers',
    'kept_norms',
    'local_tensors',
    'prunable_tensors',
    'release',
]
