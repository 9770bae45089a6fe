"""Importance of channels by the size of their weights, or by chance."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.errors import InputError
from mmprune.registry import IMPORTANCE


@IMPORTANCE.register_module()
class RandomImportance:
    """Any channels: each group draws scores of its own, the same ones every time.

    Args:
        seed: Seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, group: ChannelGroup, model: nn.Module) -> np.ndarray:
        """One float per channel, (C,)."""
        digest = hashlib.sha256(group.space_id.encode()).digest()
        own = int.from_bytes(digest[:8], 'little')
        return np.random.default_rng([self.seed, own]).random(group.num_channels)


class _NormImportance:
    """A norm of the weights of a channel, summed over the weights that the group indexes.

    Only weights of convolutions and linear layers count: the filters that make the
    channels and the columns that read them.
    """

    def power(self, values: torch.Tensor) -> torch.Tensor:
        """The contribution of every weight."""
        raise NotImplementedError

    def scores(self, group: ChannelGroup, model: nn.Module) -> np.ndarray:
        """One float per channel, (C,)."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        total = torch.zeros(group.num_channels, dtype=torch.float64)
        for member in group.members:
            tensor = parameters.get(member.tensor)
            if tensor is None or tensor.dim() < 2:
                continue
            if not torch.isfinite(tensor).all():
                wrong = int((~torch.isfinite(tensor)).sum())
                raise InputError(
                    f"group '{group.space_id}': {wrong} of the {tensor.numel()} numbers of "
                    f"'{member.tensor}' are NaN or infinite, so that {type(self).__name__} cannot "
                    'tell which channels weigh most: load weights from before the training failed'
                )
            others = [dim for dim in range(tensor.dim()) if dim not in member.dims]
            sizes = self.power(tensor.detach().double().cpu())
            sizes = sizes.sum(others) if others else sizes
            index = torch.from_numpy(np.broadcast_to(member.index, sizes.shape).copy()).flatten()
            mine = index >= 0
            total.index_add_(0, index[mine], sizes.flatten()[mine])
        return total.numpy()


@IMPORTANCE.register_module()
class L1Importance(_NormImportance):
    """Sum of absolute weights (Li et al., Pruning Filters for Efficient ConvNets, 2017, sec. 3)."""

    def power(self, values: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return values.abs()


@IMPORTANCE.register_module()
class L2Importance(_NormImportance):
    """Sum of squared weights: the L2 norm's order, additive over the members of a group."""

    def power(self, values: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return values.square()
