"""What all importances have in common: members, their reduction, normalisation, refusals."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from mmprune.channels import ChannelGroup, Member
from mmprune.channels.member_values import has_elements
from mmprune.errors import InputError, check_choice, listed
from mmprune.importance.effective import effective, tensors_of
from mmprune.trace.kinds import TRANSPOSED_CONVS

Array = np.ndarray


@dataclass(frozen=True)
class MemberScores:
    """What one member says about the channels of its group.

    Attributes:
        source: Name of the tensor.
        values: One score per channel, (C,) float64.
        has: Which channels the tensor has anything of, (C,) bool; the others' scores are
            not looked at.
    """

    source: str
    values: Array
    has: Array


# -- reductions over members: values (M, C), has (M, C) -> (C,) ------------------------------


def _sum(values: Array, has: Array) -> Array:
    return np.where(has, values, 0).sum(0)


def _mean(values: Array, has: Array) -> Array:
    return _sum(values, has) / np.maximum(has.sum(0), 1)


def _max(values: Array, has: Array) -> Array:
    return np.where(has.any(0), np.where(has, values, -np.inf).max(0), 0)


def _product(values: Array, has: Array) -> Array:
    return np.where(has.any(0), np.where(has, values, 1).prod(0), 0)


def _first(values: Array, has: Array) -> Array:
    chosen = values[has.argmax(0), np.arange(values.shape[1])]
    return np.where(has.any(0), chosen, 0)


REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    'sum': _sum,
    'mean': _mean,
    'max': _max,
    'product': _product,
    'first': _first,
}

# -- normalisations of a group's scores: (C,) -> (C,) ----------------------------------------


def _divided(scores: Array, divisor: float) -> Array:
    """A group whose scores are all zero stays as it is."""
    return scores / divisor if divisor else scores


NORMALISATIONS: dict[str, Callable[[Array], Array]] = {
    'none': lambda scores: scores,
    'sum': lambda scores: _divided(scores, float(np.abs(scores).sum())),
    'mean': lambda scores: _divided(scores, float(np.abs(scores).mean())),
    'max': lambda scores: _divided(scores, float(np.abs(scores).max())),
    'standardised': lambda scores: _divided(scores - scores.mean(), float(scores.std())),
}

MEMBERS = ('all', 'outputs', 'inputs')


class Importance(abc.ABC):
    """How much each channel of a group matters: what scores high is kept.

    A group's channels have elements in several tensors, its *members*: the filters of all
    layers whose outputs are added up, the columns of all layers that read them. A criterion
    scores the channels in each member (``member_scores``); the scores are then reduced
    over the members, and normalised within the group.

    Args:
        reduction: ``'sum'``, ``'mean'``, ``'max'`` or ``'product'`` over the members that
            have elements of a channel, or ``'first'``: the first of them in order of
            execution, layers that make the channels before layers that read them.
        normalise: ``'none'``; by the ``'sum'``, ``'mean'`` or ``'max'`` of the sizes of the
            group's scores; or ``'standardised'``: less their mean, over their standard
            deviation. The order within the group stays; it matters where groups are compared.
            None leaves the choice to who compares, see ``comparable``.
        members: ``'all'``, or only the ``'outputs'`` (filters that make the channels) or
            the ``'inputs'`` (columns that read them).

    Raises:
        InputError: An option has none of these values.
    """

    fallback: Importance | None = None
    """What scores groups in which the criterion has nothing to go by; None: they are refused."""
    between_groups: ClassVar[str] = 'mean'
    """How scores are normalised that are compared between groups, where ``normalise`` is None."""

    def __init__(
        self, reduction: str = 'sum', normalise: str | None = None, members: str = 'all'
    ) -> None:
        check_choice(f'{self.name}: reduction', reduction, REDUCTIONS)
        check_choice(f'{self.name}: normalise', normalise or 'none', NORMALISATIONS)
        check_choice(f'{self.name}: members', members, MEMBERS)
        self.reduction, self.normalise, self.members = reduction, normalise, members

    @abc.abstractmethod
    def member_scores(self, group: ChannelGroup, model: nn.Module) -> list[MemberScores]:
        """The scores of every member that the criterion looks at, the first one first."""

    def of_group(self, scores: Array) -> Array:
        """What a criterion makes of a group's reduced scores, (C,), before normalisation."""
        return scores

    def scores(self, group: ChannelGroup, model: nn.Module) -> Array:
        """One finite float per channel, (C,).

        Args:
            group: A group of the model's channels.
            model: The network that the group's names belong to.

        Raises:
            InputError: A score is NaN or infinite, or the criterion has nothing to go by.
        """
        found = self.member_scores(group, model)
        if not found and self.fallback is not None:
            return self.fallback.scores(group, model)
        if not found:
            tensors = listed((member.tensor for member in group.members), 3)
            raise InputError(
                f"group '{group.space_id}': {self.name} finds nothing to go by in its "
                f'{len(group.members)} tensors ({tensors}): choose another importance, or '
                f'keep its channels by except_start_keys=[{group.space_id!r}]'
            )
        for member in found:
            if not np.isfinite(member.values[member.has]).all():
                raise self._not_finite(group, member, model)
        values = np.stack([member.values for member in found])
        has = np.stack([member.has for member in found])
        with np.errstate(over='ignore', invalid='ignore'):  # refused below
            reduced = REDUCTIONS[self.reduction](values, has)
            scores = NORMALISATIONS[self.normalise or 'none'](self.of_group(reduced))
        if not np.isfinite(scores).all():
            raise InputError(
                f"group '{group.space_id}': the {self.reduction} over {len(found)} members is too "
                f'large for {int((~np.isfinite(scores)).sum())} of {len(scores)} channels: choose '
                'another reduction'
            )
        return scores

    def comparable(self, scores: Array) -> Array:
        """Scores of one group, made to be compared with those of groups of other sizes.

        Sums of weights grow with a layer: compared as they are, they empty the layers with the
        smallest filters. What ``normalise`` chose stays; otherwise ``between_groups`` is done.
        """
        return scores if self.normalise else NORMALISATIONS[self.between_groups](scores)

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    # -- members -----------------------------------------------------------------------

    def weights(
        self, group: ChannelGroup, model: nn.Module
    ) -> Iterator[tuple[Member, torch.Tensor]]:
        """The members that are weights of two dims or more, in order, with their tensors.

        They are those that the layers use: where a layer computes its weight (normalised,
        masked, standardised), that one. Norm scales and biases are not among them. ``members``
        is heeded.

        Raises:
            InputError: It was not seen how a weight is computed.
        """
        tensors = tensors_of(model)
        for member, shape, reads in _by_side(group, model):
            side = 'inputs' if reads else 'outputs'
            if len(shape) > 1 and self.members in ('all', side):
                tensor = effective(member, group, tensors, self.name)
                assert tensor is not None  # buffers have no shape here
                yield member, tensor

    def _not_finite(
        self, group: ChannelGroup, member: MemberScores, model: nn.Module
    ) -> InputError:
        """What to say about scores that are not finite: names the group and the tensor."""
        tensor = dict(model.named_parameters(remove_duplicate=False)).get(member.source)
        if tensor is not None and not torch.isfinite(tensor).all():
            wrong = int((~torch.isfinite(tensor)).sum())
            return InputError(
                f"group '{group.space_id}': {wrong} of the {tensor.numel()} numbers of "
                f"'{member.source}' are NaN or infinite, so that {self.name} cannot "
                'tell which channels weigh most: load weights from before the training failed'
            )
        wrong = int((~np.isfinite(member.values[member.has])).sum())
        return InputError(
            f"group '{group.space_id}': {wrong} of the {int(member.has.sum())} channel "
            f"scores that {self.name} takes from '{member.source}' are NaN or infinite"
        )


def scored(member: Member, values: torch.Tensor) -> MemberScores:
    """Scores of one member from a number per channel, (C,)."""
    return MemberScores(member.tensor, values.cpu().numpy(), has_elements(member, len(values)))


def owner_of(member: Member, model: nn.Module) -> nn.Module:
    """The module that a member's tensor is an attribute of."""
    owner = model
    for local in member.tensor.split('.')[:-1]:
        owner = owner._modules[local]  # type: ignore[assignment]
    return owner


def places_of(channel: np.ndarray) -> np.ndarray | None:
    """Where each channel stands among positions, (channels, places of each), in order.

    Args:
        channel: Channel number at each position, -1 for other groups', (positions,).

    Returns:
        None if there is no channel, or some stand in more places than others.
    """
    order = np.argsort(channel, kind='stable')
    order = order[channel[order] >= 0]
    counts = np.unique(channel[order], return_counts=True)[1]
    return order.reshape(len(counts), -1) if len(set(counts.tolist())) == 1 else None


def ordered_members(group: ChannelGroup, model: nn.Module) -> list[Member]:
    """Layers that make the channels first, then those that read them, as they run."""
    return [member for member, _, _ in _by_side(group, model)]


def _by_side(group: ChannelGroup, model: nn.Module) -> list[tuple[Member, tuple[int, ...], bool]]:
    """The members in order, each with its shape, and whether it reads the channels."""
    tensors = tensors_of(model)
    places = [{name: i for i, name in enumerate(n)} for n in (group.layers, group.consumers)]
    found = []
    for member in group.used:
        shape = shape_of(member, tensors)
        reads = reads_channels(member, shape, group, model)
        known = places[reads]
        place = min([known.get(name, len(known)) for name in _layers_around(member.tensor)])
        found.append(((reads, place), (member, shape, reads)))
    return [member for _, member in sorted(found, key=lambda pair: pair[0])]


@lru_cache(maxsize=4096)
def _layers_around(tensor: str) -> tuple[str, ...]:
    """The module that owns a tensor, and all that it is in but the network.

    A weight behind a function belongs to a module inside of the layer.
    """
    parts = tensor.split('.')[:-1]
    return tuple('.'.join(parts[:stop]) for stop in range(len(parts), 0, -1)) or ('',)


def shape_of(member: Member, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """The shape of a parameter or computed weight; () for a buffer."""
    if member.computed is not None:
        return member.computed.shape
    tensor = tensors.get(member.tensor)
    return tuple(tensor.shape) if isinstance(tensor, nn.Parameter) else ()


def reads_channels(
    member: Member, shape: tuple[int, ...], group: ChannelGroup, model: nn.Module
) -> bool:
    """Whether a member is the part of a weight that reads the channels, not that makes them.

    A depthwise filter does both, and counts as making them.
    """
    if len(shape) < 2:
        return False
    module = owner_of(member, model)
    if isinstance(module, TRANSPOSED_CONVS):
        return 1 not in member.dims and shape[1] > 1
    around = _layers_around(member.tensor)
    makes, reads = (
        any([name in names for name in around]) for names in (group.layers, group.consumers)
    )
    return 1 in member.dims if makes and reads else reads
