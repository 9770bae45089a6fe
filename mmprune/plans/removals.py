"""What a plan removes: channels of layers, and the labels that they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmprune.channels.labels import IntArray
from mmprune.errors import InputError
from mmprune.schema import Count, Whole
from mmprune.supernet.supernet import Supernet


@dataclass(frozen=True)
class Removal:
    """Channels of one layer that are to go.

    Attributes:
        layer: Its name.
        channels: Their numbers in the full layer, whatever was removed before.
        side: ``'out'`` or ``'in'``.
        raw: How many channels the full layer has on this side.
    """

    layer: str
    channels: tuple[Whole, ...]
    side: str
    raw: Count

    def __post_init__(self) -> None:
        if self.side not in ('in', 'out'):
            raise ValueError(f"layer '{self.layer}' has no side {self.side!r}")
        if max(self.channels, default=0) >= self.raw:
            raise ValueError(
                f"layer '{self.layer}' has no channel {max(self.channels)}; it has {self.raw} "
                'channels'
            )


class PlanError(InputError):
    """A plan that cannot be made or carried out."""


def side_of(supernet: Supernet, name: str, side: str) -> IntArray:
    """The labels of all channels of one side of a layer.

    Raises:
        PlanError: There is no such layer, or it has no channels on this side.
    """
    layer = supernet.layers.get(name)
    labels = None if layer is None else layer.inputs if side == 'in' else layer.outputs
    if layer is not None and side == 'in' and labels is None and layer.inputs is None:
        labels = layer.outputs  # a norm reads what it gives
    if labels is None:
        like = [n for n in supernet.layers if n.rpartition('.')[2] == name.rpartition('.')[2]][:3]
        known = like or list(supernet.layers)[:3]
        raise PlanError(
            f"no traced layer '{name}' with {side}put channels; there are, for example, {known}"
        )
    return labels


def labels_of(supernet: Supernet, removal: Removal) -> IntArray:
    """The labels of the channels of a removal.

    Raises:
        PlanError: The layer has no such channels, or one of them is pinned.
    """
    labels = side_of(supernet, removal.layer, removal.side)
    if len(labels) != removal.raw:
        raise PlanError(
            f"layer '{removal.layer}' has {len(labels)} {removal.side}puts, the plan was made for "
            f'{removal.raw}: it is for another model'
        )
    chosen = labels[list(removal.channels)]
    prunable = np.zeros(supernet.size, bool)
    for one in supernet.prunable_groups.values():
        prunable[one.labels] = True
    pinned = [c for c, n in zip(removal.channels, chosen, strict=True) if n < 0 or not prunable[n]]
    if pinned:
        label = labels[pinned[0]]
        group = next((g for g in supernet.groups.values() if label in g.labels), None)
        why = group.reason if group is not None else 'it always stays'
        raise PlanError(
            f"layer '{removal.layer}': channel {pinned[0]} of its {len(labels)} {removal.side}puts "
            f'is pinned ({why})'
        )
    return chosen
