"""Importance of channels by derivatives of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.member_values import channel_sums
from mmprune.errors import InputError, check_choice
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction, key_of
from mmprune.importance.effective import WeightWatch, cannot_follow, in_full
from mmprune.registry import IMPORTANCE
from mmprune.trace.trace_graph import ComputedWeight

PER = ('channel', 'weight')


@dataclass(frozen=True)
class _Used:
    """A weight in a forward pass: the tensors that were used, each of which has a gradient.

    Attributes:
        tensors: The parameter; or what was computed from parameters, once per run of a layer.
        computed: How, for those.
        layer: The module that uses it.
    """

    tensors: list[torch.Tensor]
    computed: ComputedWeight | None
    layer: nn.Module

    def in_full(self, values: torch.Tensor) -> torch.Tensor | None:
        """Numbers of its elements at their places at full width; None if not known."""
        if self.computed is None:
            return values
        return in_full(values, self.computed, self.layer)


class _GradientImportance(DataImportance):
    """A sum over a channel's weights of something that derivatives say."""

    def weight_members(
        self, model: nn.Module, groups: Groups
    ) -> list[tuple[ChannelGroup, Member, torch.Tensor]]:
        """All weights of all groups."""
        return [
            (group, member, tensor)
            for group in groups.values()
            for member, tensor in self.weights(group, model)
        ]

    @contextmanager
    def watching(
        self, members: Sequence[tuple[ChannelGroup, Member, torch.Tensor]], model: nn.Module
    ) -> Iterator[dict[str, _Used]]:
        """Context of a forward pass; afterwards it has what was used, by name of the tensor.

        Raises:
            InputError: A computed weight was not seen in the pass.
        """
        used = {
            member.tensor: _Used([tensor], None, model)
            for _, member, tensor in members  # computed ones keep their places in the order
        }
        wanted = {m.computed.name: (g, m.computed) for g, m, _ in members if m.computed is not None}
        if not wanted:
            yield used
            return
        with WeightWatch((weight for _, weight in wanted.values()), model) as watch:
            yield used
        for name, (group, weight) in wanted.items():
            found = watch.found.get(name)
            if found is None and watch.was_used(weight):
                raise cannot_follow(weight, group, self.name)
            unused = used[name].tensors[0].clone().requires_grad_()
            used[name] = _Used(found or [unused], weight, model.get_submodule(weight.layer))

    def by_channel(
        self,
        members: Sequence[tuple[ChannelGroup, Member, torch.Tensor]],
        used: Mapping[str, _Used],
        values: Mapping[int, torch.Tensor],
        size: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> dict[Key, torch.Tensor]:
        """Sums over channels, by member.

        Args:
            members: See ``weight_members``.
            used: See ``watching``.
            values: Numbers of a tensor's elements, by its id.
            size: What each element counts; the sum of its numbers over the runs of a layer if
                None.
        """
        found = {}
        for group, member, _ in members:
            source = used[member.tensor]
            total = torch.stack([values[id(tensor)] for tensor in source.tensors]).sum(0)
            full = source.in_full(total if size is None else size(total))
            if full is None:
                raise InputError(
                    f"group '{group.space_id}': {self.name} does not know which channels of "
                    f"'{member.tensor}' the subnet has that is set: call set_max_channel() before "
                    'collecting'
                )
            found[key_of(group, member)] = channel_sums(full, member, group.num_channels)
        return found


@IMPORTANCE.register_module()
class TaylorImportance(_GradientImportance):
    """First-order estimate of how much the loss changes without a channel.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning",
    2019, section 3. Per batch and weight tensor, the size of the sum of gradient times weight
    over a channel's weights; the mean over batches.

    Args:
        per: ``'channel'`` adds up a channel's products before their size is taken, as if all
            its weights went together; ``'weight'`` takes the size of every product.
        squared: Squares instead of absolute values, as in the paper.
        **kwargs: See ``Importance``.

    Raises:
        InputError: ``per`` is something else.
    """

    def __init__(self, per: str = 'channel', squared: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice(f'{self.name}: per', per, PER)
        self.per = per
        self.squared = squared

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """Size of gradient times weight, by member and channel."""
        members = self.weight_members(model, groups)
        if not members:
            return {}
        with self.watching(members, model) as used:
            loss = self.loss(model, loss_fn, batch)
        tensors = _distinct(used)
        gradients = torch.autograd.grad(loss, tensors, materialize_grads=True, allow_unused=True)
        products = {
            id(tensor): tensor.detach().double() * gradient.double()
            for tensor, gradient in zip(tensors, gradients, strict=True)
        }
        if self.per == 'weight':
            return self.by_channel(members, used, products, self._size)
        sums = self.by_channel(members, used, products)
        return {key: self._size(values) for key, values in sums.items()}

    def _size(self, values: torch.Tensor) -> torch.Tensor:
        return values.square() if self.squared else values.abs()


@IMPORTANCE.register_module()
class HessianImportance(_GradientImportance):
    """Second-order estimate: half the weight squared times the Hessian's diagonal.

    LeCun, Denker, Solla, "Optimal Brain Damage", 1990, section 2, summed over a channel's
    weights. The diagonal is estimated by products of the Hessian with random signs z,
    mean of z * (H z) (Bekas, Kokiopoulou, Saad, "An Estimator for the Diagonal of a Matrix",
    2007, section 2), which is exact where the Hessian is diagonal and unbiased elsewhere.
    A sum may be negative: removing the channel is expected to lower the loss.

    Args:
        num_draws: Random signs per batch.
        seed: Of the signs.
        **kwargs: See ``Importance``.

    Raises:
        InputError: ``num_draws`` is below 1.
    """

    def __init__(self, num_draws: int = 1, seed: int = 0, **kwargs: Any) -> None:
        self.seed = seed
        super().__init__(**kwargs)
        if num_draws < 1:
            raise InputError(f'{self.name}: num_draws must be at least 1, not {num_draws}')
        self.num_draws = num_draws

    def reset(self) -> None:
        """Forget all batches, and draw the same signs again."""
        super().reset()
        self.generator = torch.Generator().manual_seed(self.seed)

    def signs(self, tensor: torch.Tensor) -> torch.Tensor:
        """A random sign for every weight."""
        drawn = torch.randint(0, 2, tensor.shape, generator=self.generator)
        return (2 * drawn - 1).to(tensor)

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """Half the squared weight times the diagonal, by member and channel."""
        members = self.weight_members(model, groups)
        if not members:
            return {}
        # Fused attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH), self.watching(members, model) as used:
            loss = self.loss(model, loss_fn, batch)
        tensors = _distinct(used)
        diagonals = self._diagonals(loss, used)
        halves = {
            id(tensor): tensor.detach().double().square() * diagonal / 2
            for tensor, diagonal in zip(tensors, diagonals, strict=True)
        }
        return self.by_channel(members, used, halves)

    def _diagonals(self, loss: torch.Tensor, used: Mapping[str, _Used]) -> list[torch.Tensor]:
        """The estimate for every tensor, float64."""
        tensors = _distinct(used)
        with sdpa_kernel(SDPBackend.MATH):
            gradients = torch.autograd.grad(
                loss, tensors, create_graph=True, materialize_grads=True, allow_unused=True
            )
        total = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors]
        dependent = [g for g in gradients if g.requires_grad]
        for draw in range(self.num_draws if dependent else 0):
            drawn: dict[int, torch.Tensor] = {}
            for weight in used.values():  # the runs of a layer share their signs
                if id(weight.tensors[0]) not in drawn:
                    z = self.signs(weight.tensors[0])
                    drawn.update({id(tensor): z for tensor in weight.tensors})
            signs = [drawn[id(tensor)] for tensor in tensors]
            products = torch.autograd.grad(
                dependent,
                tensors,
                [z for z, g in zip(signs, gradients, strict=True) if g.requires_grad],
                retain_graph=draw < self.num_draws - 1,
                materialize_grads=True,
                allow_unused=True,
            )
            for diagonal, z, product in zip(total, signs, products, strict=True):
                diagonal += (z * product).double() / self.num_draws
        return total


def _distinct(used: Mapping[str, _Used]) -> list[torch.Tensor]:
    """Every tensor once; a tied one has several names."""
    return list({id(t): t for weight in used.values() for t in weight.tensors}.values())
