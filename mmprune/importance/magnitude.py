"""Importance of channels by the size of their weights, or by chance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.member_values import channel_rows, channel_sums
from mmprune.errors import InputError
from mmprune.importance.base import (
    Importance,
    MemberScores,
    ordered_members,
    owner_of,
    scored,
)
from mmprune.importance.effective import effective, tensors_of
from mmprune.registry import IMPORTANCE
from mmprune.trace.kinds import NORMS


def norm_scales(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[Member, torch.Tensor]]:
    """The members that are scales of norms, in order, with their tensors."""
    tensors = tensors_of(model)
    for member in ordered_members(group, model):
        is_scale = member.tensor.rpartition('.')[2].partition('#')[0] == 'weight'
        if is_scale and isinstance(owner_of(member, model), NORMS):
            scale = effective(member, group, tensors, 'a criterion of scales')
            if scale is not None:
                yield member, scale


@IMPORTANCE.register_module()
class RandomImportance(Importance):
    """Any channels: each group draws scores of its own, the same ones every time.

    The baseline of "Pruning Filters for Efficient ConvNets" (Li, Kadav, Durdanovic, Samet, Graf,
    2017), section 4.4.

    Args:
        seed: Seed of the draw.
        **kwargs: See ``Importance``. There is one member only, so a reduction changes nothing.
    """

    between_groups = 'none'

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """One draw in [0, 1) per channel."""
        digest = hashlib.sha256(group.space_id.encode()).digest()
        own = int.from_bytes(digest[:8], 'little')
        drawn = np.random.default_rng([self.seed, own]).random(group.num_channels)
        return [MemberScores(group.space_id, drawn, np.ones(group.num_channels, bool))]


@IMPORTANCE.register_module()
class LpImportance(Importance):
    """The Lp norm of a channel's weights.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", 2017, section
    3.1 (L1, of filters: ``members='outputs'``) and appendix (L2). Weights of convolutions and
    linear layers count, those that read the channels too; norms and biases do not.

    Args:
        p: The exponent, above 0.
        root: Whether the sum of powers is raised to 1/p. Without it the powers of all members
            can be added up to the power of the whole channel's norm.
        norms: Whether the scales of the norms that a channel goes through are members too,
            as in Torch-Pruning.
        **kwargs: See ``Importance``.

    Raises:
        InputError: ``p`` is not above 0.
    """

    def __init__(self, p: float = 2, root: bool = True, norms: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < p < float('inf'):
            raise InputError(f'{self.name}: p must be a finite number above 0, not {p!r}')
        self.p = p
        self.root = root
        self.norms = norms

    def _powers(self, weights: torch.Tensor) -> torch.Tensor:
        return weights.abs().double() if self.p == 1 else weights.double().abs().pow(self.p)

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The norm of every channel's part of every weight."""
        found = []
        scales = norm_scales(group, model) if self.norms else ()
        for member, tensor in (*self.weights(group, model), *scales):
            sums = channel_sums(tensor, member, group.num_channels, self._powers)
            found.append(
                scored(member, sums.pow(1 / self.p) if self.root and self.p != 1 else sums)
            )
        return found


@IMPORTANCE.register_module()
class L1Importance(LpImportance):
    """Sum of absolute weights.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", 2017,
    section 3.1.

    Args:
        **kwargs: See ``LpImportance`` and ``Importance``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(p=1, **kwargs)


@IMPORTANCE.register_module()
class L2Importance(LpImportance):
    """Sum of squared weights: the L2 norm's order, additive over the members of a group.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", 2017,
    appendix.

    Args:
        root: Whether the square root is taken of each member's sum.
        **kwargs: See ``LpImportance`` and ``Importance``.
    """

    def __init__(self, root: bool = False, **kwargs: Any) -> None:
        super().__init__(p=2, root=root, **kwargs)


@IMPORTANCE.register_module()
class LAMPImportance(LpImportance):
    """Squared weights over those of all channels of the group that are at least as large.

    Lee, Park, Mo, Ahn, Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021,
    section 2, with the channels of a group in the place of the weights of a layer. The largest
    channel of every group scores 1, so a global threshold empties none.

    Args:
        **kwargs: See ``LpImportance`` and ``Importance``.
    """

    between_groups = 'none'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(p=2, root=False, **kwargs)

    def of_group(self, scores: np.ndarray) -> np.ndarray:
        """Each score over the sum of itself and all larger ones."""
        order = np.argsort(-scores, kind='stable')
        lamp = np.zeros_like(scores)
        sums = np.cumsum(scores[order])
        lamp[order] = np.divide(scores[order], sums, out=np.zeros_like(sums), where=sums > 0)
        return lamp


@IMPORTANCE.register_module()
class FPGMImportance(Importance):
    """Sum of distances to the other filters of the layer: what the others can replace goes.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional
    Neural Networks Acceleration", 2019, section 3.4.

    Args:
        members: Filters alone by default, as in the paper.
        **kwargs: See ``Importance``.
    """

    def __init__(self, members: str = 'outputs', **kwargs: Any) -> None:
        super().__init__(members=members, **kwargs)

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """Per weight, the sum of Euclidean distances of a channel's part to all others'."""
        found = []
        for member, tensor in self.weights(group, model):
            rows = channel_rows(tensor, member, group.num_channels)
            score = scored(member, torch.zeros(group.num_channels, dtype=torch.float64))
            rows = rows[torch.from_numpy(score.has)]
            score.values[score.has] = torch.cdist(rows, rows).sum(1).numpy()
            found.append(score)
        return found


@IMPORTANCE.register_module()
class BNScaleImportance(Importance):
    """Absolute scale of the norms that a channel goes through.

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network
    Slimming", 2017, section 3. Batch, group, instance, layer and RMS norms with a scale count.

    Args:
        fallback: Importance, or its config, of groups without such a norm. None: they are
            refused.
        **kwargs: See ``Importance``.
    """

    def __init__(self, fallback: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fallback = IMPORTANCE.build(fallback) if isinstance(fallback, Mapping) else fallback

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The scales of every norm of the group."""
        return [
            scored(member, channel_sums(scale.detach().abs(), member, group.num_channels))
            for member, scale in norm_scales(group, model)
        ]
