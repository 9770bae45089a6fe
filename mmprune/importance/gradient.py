"""Importance of channels by derivatives of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.member_values import channel_sums
from mmprune.errors import InputError
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction, key_of
from mmprune.registry import IMPORTANCE

PER = ('channel', 'weight')


class _GradientImportance(DataImportance):
    """A sum over a channel's weights of something that derivatives say."""

    def weight_members(
        self, model: nn.Module, groups: Groups
    ) -> Iterator[tuple[ChannelGroup, Member, torch.Tensor]]:
        """All weights of all groups."""
        for group in groups.values():
            for member, tensor in self.weights(group, model):
                yield group, member, tensor

    def loss(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> torch.Tensor:
        """The loss of a batch.

        Raises:
            InputError: It is no scalar with a gradient, or not finite.
        """
        loss = loss_fn(model, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError(
                f'{self.name}: loss_fn(model, batch) must return a scalar that depends on the '
                f'parameters, not {loss!r:.80}'
            )
        if not torch.isfinite(loss).all():
            raise InputError(f'{self.name}: the loss of a batch is {loss.item()}')
        return loss.sum()


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
        if per not in PER:
            raise InputError(f"{self.name}: per must be 'channel' or 'weight', not {per!r}")
        self.per = per
        self.squared = squared

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """Size of gradient times weight, by member and channel."""
        members = list(self.weight_members(model, groups))
        tensors = list({id(tensor): tensor for _, _, tensor in members}.values())
        if not tensors:
            return {}
        loss = self.loss(model, loss_fn, batch)
        gradients = torch.autograd.grad(loss, tensors, materialize_grads=True, allow_unused=True)
        products = {
            id(tensor): tensor.detach().double() * gradient.double()
            for tensor, gradient in zip(tensors, gradients, strict=True)
        }
        found = {}
        for group, member, tensor in members:
            product = products[id(tensor)]
            if self.per == 'weight':
                product = self._size(product)
            sums = channel_sums(product, member, group.num_channels)
            found[key_of(group, member)] = sums if self.per == 'weight' else self._size(sums)
        return found

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
        members = list(self.weight_members(model, groups))
        tensors = list({id(tensor): tensor for _, _, tensor in members}.values())
        if not tensors:
            return {}
        diagonals = self._diagonals(model, tensors, loss_fn, batch)
        halves = {
            id(tensor): tensor.detach().double().square() * diagonal / 2
            for tensor, diagonal in zip(tensors, diagonals, strict=True)
        }
        return {
            key_of(group, member): channel_sums(halves[id(tensor)], member, group.num_channels)
            for group, member, tensor in members
        }

    def _diagonals(
        self, model: nn.Module, tensors: list[torch.Tensor], loss_fn: LossFunction, batch: Any
    ) -> list[torch.Tensor]:
        """The estimate for every weight, float64."""
        # Fused attention kernels have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            loss = self.loss(model, loss_fn, batch)
            gradients = torch.autograd.grad(
                loss, tensors, create_graph=True, materialize_grads=True, allow_unused=True
            )
        total = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in tensors]
        dependent = [g for g in gradients if g.requires_grad]
        for draw in range(self.num_draws if dependent else 0):
            signs = [self.signs(tensor) for tensor in tensors]
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
