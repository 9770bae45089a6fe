"""What stands in for one tensor, and what a subnet has of it."""

from __future__ import annotations

from dataclasses import dataclass

from mmprune.execution.lookup import Kept
from mmprune.execution.prunable import PrunableTensor
from mmprune.execution.swap import Swap
from mmprune.layers import Cut, cut_of_masks, grouped_cut, plain_cut


@dataclass(frozen=True)
class TensorPlan:
    """One prunable tensor: its swap, and where to look up what is kept of it.

    Attributes:
        tensor: The tensor.
        swap: What stands in for it.
        factors: Number in the lookup of each of its label arrays.
        dims: The dim of each, if every array runs along one dim of its own.
        sides: For the weight of a grouped convolution the numbers of its outputs and inputs, -1
            where it has none.
        groups: How many groups it has.
    """

    tensor: PrunableTensor
    swap: Swap
    factors: tuple[int, ...]
    dims: tuple[int, ...] | None
    sides: tuple[int, int] = (-1, -1)
    groups: int = 1


def cut_in(plan: TensorPlan, found: Kept) -> Cut | None:
    """What the subnet has of one tensor; None for all."""
    shape = plan.tensor.shape
    if plan.dims is None and not found.turned.isdisjoint(plan.sides):
        rows, columns = (None if n < 0 else found.index[n].cpu().numpy() for n in plan.sides)
        return grouped_cut(shape, rows, columns, plan.groups)
    if plan.dims is None:
        masks = zip(plan.factors, plan.tensor.factors, strict=True)
        cut = cut_of_masks(shape, [found.mask(n).reshape(f.shape) for n, f in masks])
        return None if cut.is_whole else cut
    places = [
        (dim, found.where(number), found.counts[number])
        for dim, number in zip(plan.dims, plan.factors, strict=True)
        if not found.is_whole(number)
    ]
    return plain_cut(shape, places) if places else None
