"""Shortcuts that are sampled to fit: residual blocks that end on another width than they begin.

In a channel config, the entry of such a block says which channel of the shortcut each channel
of the sum reads: ``{shortcut: {raw: 48, index: [0, 1, 5, ...]}}``. A block is a module whose
attribute ``downsample`` is its shortcut, None for the identity, as in mmcls and timm.

Source: He et al. 2018, "AMC: AutoML for Model Compression", whose lists of channels need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.deploy.entries import ChannelCfg


class ChannelSample(nn.Module):
    """Channels by a fixed index, which is a buffer: it is saved, moved and exported.

    Args:
        index: Number of the input channel for every output channel.
    """

    index: torch.Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer('index', torch.tensor(list(index), dtype=torch.long))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, len(index), ...)."""
        return data.index_select(1, self.index)

    def extra_repr(self) -> str:
        """How many channels it gives."""
        return f'{len(self.index)} channels'


def sampled_index(width: int, wanted: int, random: np.random.Generator) -> list[int]:
    """An index that makes ``wanted`` channels of ``width``.

    Of too many channels some are drawn, in order; where there are too few, all of them come first
    and some come twice.
    """
    if wanted <= width:
        return np.sort(random.choice(width, wanted, replace=False)).tolist()
    further = random.choice(width, wanted - width, replace=wanted - width > width)
    return [*range(width), *np.sort(further).tolist()]


def checked_shortcut(
    cfg: ChannelCfg, name: str, entry: Mapping[str, Any], module: nn.Module
) -> list[int]:
    """The index of a block's shortcut.

    Raises:
        ChannelCfgError: The module has no ``downsample`` that could be sampled.
    """
    shortcut = getattr(module, 'downsample', 0)
    if shortcut is not None and not isinstance(shortcut, nn.Module):
        raise cfg.error(
            name, f"its shortcut cannot be sampled: a {type(module).__name__} has no attribute "
            "'downsample'; use residual='union'"
        )  # fmt: skip
    return list(entry['shortcut']['index'])


def sample_shortcut(block: nn.Module, index: Sequence[int]) -> None:
    """Put a ``ChannelSample`` at the end of a block's shortcut."""
    sample = ChannelSample(index)
    own: Any = block.downsample
    if isinstance(own, nn.Sequential):
        own.append(sample)
    else:
        block.downsample = sample if own is None else nn.Sequential(own, sample)
