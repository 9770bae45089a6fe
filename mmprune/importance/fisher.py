"""Importance of coupled channels by the Fisher information of one mask that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mmprune.channels import ChannelGroup
from mmprune.errors import InputError
from mmprune.importance.activation import Reader, hooked, readers
from mmprune.importance.base import MemberScores
from mmprune.importance.data import DataImportance, Groups, Key, LossFunction
from mmprune.registry import IMPORTANCE


class _Gradients:
    """The gradient of the loss with respect to every channel's mask, for each image of a batch.

    A channel has one mask for all layers that read it, so what it gets from each is added up.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self.heard: list[tuple[Reader, torch.Tensor]] = []
        self.problem: InputError | None = None

    @contextmanager
    def watching(
        self, model: nn.Module, groups: Groups, hear: Callable[[Reader, torch.Tensor], None]
    ) -> Iterator[None]:
        """Context of a forward pass, in which ``hear`` is given each input of each reader.

        It is one that nothing else reads, so that its gradient is that of this layer alone.
        """

        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._count(tree_leaves((args, kwargs)))

        def see(reader: Reader, data: torch.Tensor) -> torch.Tensor:
            self._count([data])
            own = data.view_as(data)
            hear(reader, own)
            return own

        with (
            model.register_forward_pre_hook(count, with_kwargs=True),
            hooked((reader for _, reader in readers(model, groups)), see),
        ):
            yield

    def _count(self, inputs: Sequence[Any]) -> None:
        """Take the first tensor's first dim for the images, the network's if it is called."""
        first = next((d for d in inputs if isinstance(d, torch.Tensor) and d.dim() > 1), None)
        if first is not None and not self.num_images:
            self.num_images = len(first)

    def add(self, reader: Reader, data: torch.Tensor, slope: torch.Tensor) -> None:
        """Add what one run of a layer gives; nothing waits for a device.

        Args:
            reader: The layer.
            data: Its input; the images are along the first dim, each perhaps several times (as
                windows), or not at all for a single one.
            slope: The gradient of the loss with respect to it, of its shape.

        Where it is not known which image is where, that is the ``problem``.
        """
        count, exact = self.num_images, torch.promote_types(data.dtype, torch.float32)
        product = data.detach().to(exact) * slope.to(exact)
        dim = reader.dim % product.dim()
        others = [other for other in range(min(dim, 1), product.dim()) if other != dim]
        sums = product.sum(others) if others else product
        if count > 1 and (sums.dim() < 2 or len(sums) % count):
            self.problem = InputError(
                f"group '{reader.space_id}': GroupFisherImportance cannot tell the {count} images "
                f'of a batch from each other in an input of shape {tuple(data.shape)}: collect '
                'from batches of one image each'
            )
            return
        self.heard.append((reader, sums.reshape(count, -1, sums.shape[-1]).sum(1).double()))

    def squares(self, scale: float = 1) -> dict[Key, torch.Tensor]:
        """By group, the sum over the images of their squared gradients, (C,).

        The loss of a batch is the mean of its images'.

        Args:
            scale: What the loss was multiplied by.
        """
        of_group: dict[str, torch.Tensor] = {}
        for reader, each in self.heard:
            sums = each.cpu() * (self.num_images / scale)
            positions, channel = reader.places(sums.shape[1])
            found = of_group.setdefault(
                reader.space_id, sums.new_zeros(len(sums), reader.num_channels)
            )
            found.index_add_(1, channel, sums[:, positions])
        return {_key(space_id): found.square().sum(0) for space_id, found in of_group.items()}


def _key(space_id: str) -> Key:
    """Where a group's numbers are kept, which are those of all its tensors."""
    return space_id, space_id, ()


@IMPORTANCE.register_module()
class GroupFisherImportance(DataImportance):
    """Fisher information of a channel's mask: how much the loss changes without the channel.

    Liu et al., "Group Fisher Pruning for Practical Network Compression", 2021, section 3. A mask
    multiplies a channel in the inputs of every layer that reads it. The gradient with respect to
    it is, for one image, the sum of activation times gradient over all of these inputs; the
    score is the sum over the images of its square. As in the paper it is then divided by what a
    channel saves: ``score_per='macs'`` or ``'activations'`` of ``ImportancePruner``.

    Scores are comparable between groups as they are. There is no ``reduction``: what is coupled
    is added up before it is squared. The loss of a batch is taken to be the mean of its images'.

    Args:
        normalise: See ``Importance``.
    """

    between_groups: ClassVar[str] = 'none'

    def __init__(self, normalise: str | None = None) -> None:
        super().__init__(normalise=normalise)

    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """Sums of squares over the images of a batch."""
        runs: list[tuple[Reader, torch.Tensor]] = []
        gradients = _Gradients()
        with gradients.watching(model, groups, lambda *run: runs.append(run)):
            loss = self.loss(model, loss_fn, batch)
        inputs = [data for _, data in runs]
        slopes = torch.autograd.grad(loss, inputs, allow_unused=True) if inputs else ()
        for (reader, data), slope in zip(runs, slopes, strict=True):
            if slope is not None:
                gradients.add(reader, data, slope)
        if gradients.problem is not None:
            raise gradients.problem
        return gradients.squares()

    @contextmanager
    def listening(self, model: nn.Module, groups: Groups, scale: float = 1) -> Iterator[None]:
        """Context of a training step, forward and backward; its images are added like a batch.

        Nothing is run for it, but for the backward pass of layers that are frozen. A step adds
        nothing whose gradients are not finite, as those that a gradient scaler leaves out, or whose
        images cannot be told apart (regions, not equally many of each).

        Args:
            model: The network that the groups belong to.
            groups: The channel groups; pinned ones are left out.
            scale: What the loss is multiplied by before the backward pass.
        """
        prunable = {space_id: group for space_id, group in groups.items() if group.prunable}
        gradients = _Gradients()

        def hear(reader: Reader, data: torch.Tensor) -> None:
            if torch.is_grad_enabled() and data.is_floating_point():
                seen = data.detach()  # a hook that held on to its own tensor would be kept by it
                data.requires_grad_()
                data.register_hook(lambda slope: gradients.add(reader, seen, slope))

        with gradients.watching(model, prunable, hear):
            yield
        squares = {} if gradients.problem else gradients.squares(scale)
        if squares and all(bool(each.isfinite().all()) for each in squares.values()):
            self.add(squares)

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The only scores, which are those of all members together."""
        values = self.seen(group, _key(group.space_id))
        if values is None:
            return []
        return [MemberScores(group.space_id, values.numpy(), np.ones(len(values), bool))]
