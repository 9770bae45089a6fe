"""What importances that look at data have in common: they watch batches before they score."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.errors import InputError, of_others
from mmprune.importance.base import Importance, MemberScores, ordered_members, scored
from mmprune.trace.model_state import modes_kept

LossFunction = Callable[[nn.Module, Any], torch.Tensor]
"""``loss_fn(model, batch)`` runs the model on a batch and returns its loss, a scalar."""
Groups = Mapping[str, ChannelGroup]
Key = tuple[str, str, tuple[int, ...]]
"""A member's place in the accumulated numbers: space_id, name of the tensor, dims."""


def key_of(group: ChannelGroup, member: Member) -> Key:
    """Where a member's numbers are kept."""
    return group.space_id, member.tensor, member.dims


class DataImportance(Importance):
    """An importance that is accumulated over batches before it can score.

    ``collect`` runs the model over batches. The numbers are kept until ``reset``, so several
    calls add up. What is accumulated per batch is one number per channel and member, or one row
    of numbers; scores are its mean over the batches, unless ``over_batches`` says otherwise.

    Args:
        **kwargs: See ``Importance``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.num_batches = 0
        self.sums: dict[Key, torch.Tensor] = {}

    @abc.abstractmethod
    def watch(
        self, model: nn.Module, groups: Groups, loss_fn: LossFunction, batch: Any
    ) -> dict[Key, torch.Tensor]:
        """What one batch adds: numbers per member that counts and channel, (C, ...) float64."""

    def collect(
        self,
        model: nn.Module,
        groups: Groups,
        batches: Iterable[Any],
        loss_fn: LossFunction,
    ) -> int:
        """Run the model over batches, and accumulate.

        The model is in eval mode meanwhile: its running statistics stay as they are. So do
        its parameters, their gradients, ``requires_grad`` and the mode of every module.

        Args:
            model: The network that the groups belong to, prepared or not. If a subnet is
                set, the channels that it lacks add nothing.
            groups: The channel groups; pinned ones are left out.
            batches: As ``loss_fn`` takes them; run through once.
            loss_fn: See ``LossFunction``.

        Returns:
            How many batches have been accumulated in all.

        Raises:
            InputError: There are no batches, or a number is not finite.
        """
        prunable = {space_id: group for space_id, group in groups.items() if group.prunable}
        fresh: dict[Key, torch.Tensor] = {}
        count = 0

        def run(model: nn.Module, batch: Any) -> torch.Tensor:
            with of_others(
                f'{self.name}: loss_fn(model, batch) failed for batch {count}',
                'Give batches that it takes, or another loss_fn.',
            ):
                return loss_fn(model, batch)

        with _evaluating(model):
            for batch in batches:
                for key, values in self.watch(model, prunable, run, batch).items():
                    values = values.cpu()
                    self._check(prunable[key[0]], key, values)
                    fresh[key] = fresh[key] + values if key in fresh else values
                count += 1
        if not count:
            raise InputError(f'{self.name}: there are no batches to collect from')
        return self.add(fresh, count)

    def add(self, numbers: Mapping[Key, torch.Tensor], num_batches: int = 1) -> int:
        """Accumulate what some batches add; returns how many batches that makes in all."""
        for key, values in numbers.items():
            self.sums[key] = self.sums[key] + values if key in self.sums else values
        self.num_batches += num_batches
        return self.num_batches

    def loss(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> torch.Tensor:
        """The loss of a batch.

        Raises:
            InputError: It is no scalar with a gradient, or not finite.
        """
        loss = loss_fn(model, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            is_tensor = isinstance(loss, torch.Tensor)
            gradient = 'with' if is_tensor and loss.requires_grad else 'without'
            found = (
                f'a tensor of shape {(*loss.shape,)} {gradient} a gradient' if is_tensor else loss
            )
            raise InputError(
                f'{self.name}: loss_fn(model, batch) must return a scalar that depends on the '
                f'parameters, not {found!s:.80}'
            )
        if not torch.isfinite(loss).all():
            raise InputError(f'{self.name}: the loss of a batch is {loss.item()}')
        return loss.sum()

    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The mean over all batches, for every member that was watched.

        Raises:
            InputError: Nothing has been collected, or for another network.
        """
        found = []
        for member in ordered_members(group, model):
            values = self.seen(group, key_of(group, member))
            if values is not None:
                found.append(scored(member, self.over_batches(values)))
        return found

    def seen(self, group: ChannelGroup, key: Key) -> torch.Tensor | None:
        """What all batches have added up to at a place; None if there was nothing to see.

        Raises:
            InputError: Nothing has been collected, or for another network.
        """
        if not self.num_batches:
            raise InputError(
                f'{self.name} has seen no data: call pruner.collect(batches, loss_fn) before '
                'pruning'
            )
        values = self.sums.get(key)
        if values is not None and len(values) != group.num_channels:
            raise InputError(
                f"group '{group.space_id}': {self.name} has seen {len(values)} channels of "
                f'it, but it has {group.num_channels}: call reset() before collecting for '
                'another network'
            )
        return values

    def over_batches(self, total: torch.Tensor) -> torch.Tensor:
        """Scores, (C,), from what all batches have added up to."""
        return total / self.num_batches

    def _check(self, group: ChannelGroup, key: Key, values: torch.Tensor) -> None:
        wrong = int((~torch.isfinite(values)).sum())
        if wrong:
            raise InputError(
                f"group '{group.space_id}': {wrong} of the {len(values)} numbers that {self.name} "
                f"takes from '{key[1]}' in a batch are NaN or infinite: are there such weights or "
                'images?'
            )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, with a gradient for every parameter; both as before afterwards."""
    with modes_kept(model), torch.enable_grad():
        model.eval()
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        yield
