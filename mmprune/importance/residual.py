"""Importance by what is missing after the layers that read a channel have made up for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.member_values import channel_rows
from mmprune.errors import InputError
from mmprune.importance.activation import Reader, input_channels, readers
from mmprune.importance.base import MemberScores, owner_of, places_of
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction, key_of
from mmprune.registry import IMPORTANCE
from mmprune.trace.kinds import CONVS

L1 = MappingProxyType(dict(type='L1Importance'))
STEPS = 128
"""Up to so many channels are removed one by one, more of them a share at a time."""


@dataclass(frozen=True)
class Use:
    """How one layer uses the channels of a group.

    Attributes:
        reads: Covariances of what it reads of each channel, (C, C), float64.
        weights: Inner products of the weights that read two channels, (C, C), float64.
    """

    reads: torch.Tensor
    weights: torch.Tensor


def removal_costs(uses: Sequence[Use], ridge: float) -> torch.Tensor:
    """What it costs to remove each channel when its turn comes, the cheapest first.

    A layer that reads x through W loses least by the removal of channel c if the others take
    over, W - W_c p^T / p_c with p the column of the inverse covariance, and then loses
    |W_c|^2 / p_c. The next channel is told by the weights and covariances that are left.

    Args:
        uses: One or more layers; their losses are added up.
        ridge: Added to the variances, relative to their mean.

    Returns:
        (C,), float64; in the order of removal they do not fall.
    """
    inverses, weights = [], []
    for use in uses:
        diagonal = use.reads.diagonal()
        strength = (ridge * diagonal.mean()).clamp(min=torch.finfo(torch.float64).tiny)
        inverses.append(torch.linalg.inv(use.reads + torch.diag(strength.expand_as(diagonal))))
        weights.append(use.weights.clone())
    left = torch.arange(len(weights[0]))
    costs = torch.zeros(len(left), dtype=torch.float64)
    reached = 0.0
    while len(left):
        each = sum(w.diagonal() / p.diagonal() for w, p in zip(weights, inverses, strict=True))
        assert isinstance(each, torch.Tensor)
        count = -(-len(left) // STEPS)
        going = each.topk(count, largest=False).indices
        own = each[going].cummax(0).values.clamp(min=reached)
        costs[left[going]] = own
        reached = float(own[-1])
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[going] = False
        for number, (weight, inverse) in enumerate(zip(weights, inverses, strict=True)):
            inverses[number], weights[number] = _without(weight, inverse, going, stays)
        left = left[stays]
    return costs


def _without(
    weights: torch.Tensor, inverse: torch.Tensor, going: torch.Tensor, stays: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse covariances, and products of weights, of the channels that take over."""
    shares = torch.linalg.solve(inverse[going][:, going], inverse[going][:, stays])
    mixed = weights[stays][:, going] @ shares
    both = shares.T @ weights[going][:, going] @ shares
    rest = inverse[stays][:, stays] - inverse[stays][:, going] @ shares
    return rest, weights[stays][:, stays] - mixed - mixed.T + both


class _Mixer:
    """A layer that mixes a group's channels, and what was seen of it in a batch.

    Args:
        reader: A convolution or linear layer, not depthwise.
        places: Where its inputs are the channels that it reads, (R, K).

    Attributes:
        reads: Covariances of all channels of the group, (C, C), float64.
        given: Sum of the variances of its outputs.
    """

    def __init__(self, reader: Reader, places: torch.Tensor) -> None:
        self.reader, self.places = reader, places
        self.own = reader.channel[places[:, 0]]
        self.reads = torch.zeros(2 * (reader.num_channels,), dtype=torch.float64)
        self.given = 0.0

    def see(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Add a call: its input, (N, in, ...) or (..., in), and what came out."""
        dim = self.reader.dim
        rows = inputs[0].detach().movedim(dim, 0).flatten(1)
        mask = getattr(module, 'in_mask', None)
        if mask is not None and len(rows) < mask.numel():  # a subnet is set: the others are 0
            kept = rows
            rows = kept.new_zeros(mask.numel(), kept.shape[1])
            rows[mask.flatten() != 0] = kept
        positions = rows.shape[1]
        rows = rows[self.places.to(rows.device)].float()  # (R, K, positions)
        rows = (rows - rows.mean(2, keepdim=True)).flatten(1)
        products = (rows @ rows.T).double().cpu() / positions
        self.reads.index_put_((self.own[:, None], self.own), products, accumulate=True)
        given = output.detach().movedim(dim, 0).flatten(1).double()
        self.given += float(given.var(1, unbiased=False).sum())


@IMPORTANCE.register_module()
class ResidualImportance(DataImportance):
    """What the layers that read a channel still miss when the others have made up for it.

    Least squares, as compensation does after the cut, but in closed form and before it: from
    the covariances of what a layer reads and from its weights, for one channel after the other.
    Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993,
    section 2, with the outputs of a layer in the place of the loss, as in Kurtic, Frantar,
    Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023, section 3. A
    convolution's taps are compensated each by the same tap of other channels. Relative to
    the variance of a layer's outputs, and added up over the layers. No labels are looked at.

    Args:
        ridge: Added to the variances, relative to their mean.
        fallback: Importance, or its config, of groups that no layer mixes, as those of
            queries and keys. None: they are refused.
        **kwargs: See ``Importance``; ``reduction`` and ``members`` change nothing.

    Raises:
        InputError: ``ridge`` is not above 0.
    """

    def __init__(self, ridge: float = 1e-2, fallback: Any = L1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < ridge < float('inf'):
            raise InputError(f'{self.name}: ridge must be a finite number above 0, not {ridge!r}')
        self.ridge = ridge
        is_config = isinstance(fallback, Mapping)
        self.fallback = IMPORTANCE.build(dict(fallback)) if is_config else fallback

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """Covariances of what each layer reads, divided by the variance of what it gives."""
        mixers = dict(_mixers(model, groups))
        with ExitStack() as stack, torch.no_grad():
            for mixer in mixers.values():
                stack.enter_context(mixer.reader.module.register_forward_hook(mixer.see))
            loss_fn(model, batch)
        return {key: mixer.reads / mixer.given for key, mixer in mixers.items() if mixer.given > 0}

    def of_group(self, scores: np.ndarray) -> np.ndarray:
        """Errors, not squared, as the sizes of weights are not."""
        return np.sqrt(scores)

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """One member: the costs of removal, all layers that mix the channels together."""
        if not self.num_batches:
            return super().member_scores(group, model)  # says what to do
        uses = self._uses(group, model)
        if not uses:
            return []
        costs = removal_costs(uses, self.ridge)
        has = np.ones(group.num_channels, bool)
        return [MemberScores(group.space_id, costs.numpy(), has)]

    def _uses(self, group: ChannelGroup, model: nn.Module) -> list[Use]:
        """By all layers that mix the channels."""
        uses = []
        for member, tensor in self.weights(group, model):
            reads = self.sums.get(key_of(group, member))
            if reads is None:
                continue
            rows = channel_rows(tensor, member, group.num_channels)
            blocks = _blocks(member, owner_of(member, model), group.num_channels)
            alike = blocks[:, None] == blocks
            uses.append(Use(reads / self.num_batches * alike, rows @ rows.T * alike))
        return uses


def _mixers(model: nn.Module, groups: Groups) -> Iterator[tuple[Key, _Mixer]]:
    """The layers that mix channels, and read none of them oftener than others."""
    for key, reader in readers(model, groups):
        places = None if _is_depthwise(reader.module) else places_of(reader.channel.numpy())
        if places is not None:
            yield key, _Mixer(reader, torch.from_numpy(places))


def _is_depthwise(module: Any) -> bool:
    return isinstance(module, CONVS) and module.groups > 1 and module.weight.shape[1] == 1


def _blocks(member: Member, module: Any, channels: int) -> torch.Tensor:
    """In which of a layer's groups each channel is read, (C,)."""
    channel = input_channels(member, module)
    assert channel is not None
    blocks = np.full(channels, -1)
    mine = channel >= 0
    each = len(channel) // getattr(module, 'groups', 1)
    blocks[channel[mine]] = np.flatnonzero(mine) // each
    return torch.from_numpy(blocks)
