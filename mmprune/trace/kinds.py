"""Torch's layers by what they do with channels."""

from typing import Any

from torch import nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def channel_dim(module: Any) -> int:
    """Where a convolution has its channels in what it reads, (N, in, ...), or a linear layer."""
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)
