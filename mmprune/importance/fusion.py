"""Importance of filters by how unlike the others they are, and mixtures of filters (DCFF)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup
from mmprune.channels.member_values import channel_rows
from mmprune.importance.base import Importance, MemberScores, owner_of, places_of
from mmprune.registry import IMPORTANCE


@IMPORTANCE.register_module()
class FusionImportance(Importance):
    """How far a channel's mixture of filters is from those of the other channels.

    Lin, Ji, Zhang, Zhang, Wu, Tian, "Training Compact CNNs for Image Classification using
    Dynamic-coded Filter Fusion", 2021, section 3. Every channel is a mixture of all filters of its
    group, in shares that are the softmax over the distances between its filter and the others. The
    score is the mean Kullback-Leibler divergence of a channel's shares from the other channels'.
    Where several layers make a channel, its filters of all of them are one.

    The hook ``DCFF`` lowers the temperature while it trains. At a low one a mixture is the
    channel's own filter, and the score tells by the distances which filters are alike.

    Args:
        temperature: What distances are divided by, in mean distances of the group.
        normalise: See ``Importance``.
    """

    between_groups: ClassVar[str] = 'mean'

    def __init__(self, temperature: float = 1.0, normalise: str | None = None) -> None:
        super().__init__(normalise=normalise, members='outputs')
        self.temperature = temperature

    def shares(self, group: ChannelGroup, model: nn.Module) -> torch.Tensor | None:
        """Logarithms of the shares of all filters in each channel's mixture, (C, C), float64.

        None if no convolution or linear layer makes the channels.
        """
        found = [
            channel_rows(tensor, member, group.num_channels)
            for member, tensor in self.weights(group, model)
        ]
        if not found:
            return None
        rows = torch.cat(found, dim=1)
        distances = torch.cdist(rows, rows)
        mean = distances.sum() / max(1, distances.numel() - len(rows))
        return (-distances / (mean.clamp(min=1e-30) * self.temperature)).log_softmax(1)

    def all_shares(
        self, groups: Mapping[str, ChannelGroup], model: nn.Module
    ) -> dict[str, torch.Tensor]:
        """The shares of all prunable groups that have some."""
        prunable = {name: group for name, group in groups.items() if group.prunable}
        found = {name: self.shares(group, model) for name, group in prunable.items()}
        return {name: logs for name, logs in found.items() if logs is not None}

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The only scores, which are those of all members together."""
        logs = self.shares(group, model)
        if logs is None:
            return []
        values = (logs.exp() * (logs - logs.mean(0))).sum(1)
        return [MemberScores(group.space_id, values.numpy(), np.ones(len(values), bool))]

    def mixings(
        self,
        groups: Mapping[str, ChannelGroup],
        model: nn.Module,
        subnet: Mapping[str, torch.Tensor] | None = None,
        shares: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """By name of a parameter, what makes the mixtures of its filters.

        A filter's bias goes with it. A layer that makes some of the channels mixes these. Scales
        and shifts of norms stay, and so do filters that are computed from others, and those of
        which a layer has more for one channel than for another.

        Args:
            groups: The channel groups; pinned ones are left out.
            model: The network that they belong to.
            subnet: The filters that it lacks are left as they are.
            shares: By group, what :meth:`shares` gave; by the weights of now if None.
        """
        found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        parameters = dict(model.named_parameters())
        logs_of = self.all_shares(groups, model) if shares is None else shares
        for space_id, logs in logs_of.items():
            group = groups[space_id]
            weights = [m for m, _ in self.weights(group, model) if m.computed is None]
            layers = {id(owner_of(member, model)) for member in weights}
            biases = [
                member
                for member in group.used
                if member.tensor.endswith('.bias') and id(owner_of(member, model)) in layers
            ]
            for member in (*weights, *biases):
                positions = places_of(member.index) if len(member.dims) == 1 else None
                parameter = parameters.get(member.tensor)
                if positions is None or parameter is None:
                    continue
                own = torch.from_numpy(member.index[positions[:, 0]])
                kept = torch.ones(len(own), dtype=torch.bool)
                if subnet is not None:
                    kept = subnet[group.space_id].flatten().cpu()[own] != 0
                mixed = partial(
                    _mixed,
                    shares=logs[own[kept]][:, own].softmax(1).to(parameter),
                    positions=torch.from_numpy(positions).to(parameter.device),
                    kept=torch.from_numpy(positions)[kept].flatten().to(parameter.device),
                    dim=member.dims[0],
                )
                found[member.tensor] = _both(found.get(member.tensor), mixed)
        return found


def _mixed(
    weight: torch.Tensor,
    shares: torch.Tensor,
    positions: torch.Tensor,
    kept: torch.Tensor,
    dim: int,
) -> torch.Tensor:
    """A tensor whose filters, those that are kept, are mixtures of those of another one."""
    moved = weight.movedim(dim, 0)
    with torch.autocast(weight.device.type, enabled=False):
        rows = moved[positions].flatten(1)
        made = (shares @ rows).reshape(-1, *moved.shape[1:])
    return moved.index_copy(0, kept, made).movedim(0, dim)


def _both(
    first: Callable[[torch.Tensor], torch.Tensor] | None,
    second: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    return second if first is None else lambda weight: second(first(weight))
