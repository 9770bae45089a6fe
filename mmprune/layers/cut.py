"""How to take the kept part of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from mmprune.layers.take import LARGE, Rows, take

BoolArray = np.ndarray


class _Step(NamedTuple):
    """Cut neighbouring or scattered dims as one: ``places`` among their flattened positions."""

    dims: tuple[int, ...]
    places: torch.Tensor | slice
    sizes: tuple[int, ...]


@dataclass(eq=False)
class Cut:
    """The kept part of a tensor, as a recipe that is applied to the tensor of the moment.

    Attributes:
        shape: Shape of the kept part.
        steps: What to take of each dim that loses something; empty for the whole tensor.
    """

    shape: tuple[int, ...]
    steps: tuple[_Step, ...]
    _rows: Rows | None = field(default=None, repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether everything is kept."""
        return not self.steps

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The kept part. Gradients flow to ``tensor``; it may be a view of it."""
        rows = self._rows_of(tensor)
        if rows is not None:
            return take(tensor, rows)
        for step in self.steps:
            if isinstance(step.places, slice):
                size = step.places.stop - step.places.start
                tensor = tensor.narrow(step.dims[0], step.places.start, size)
                continue
            index = step.places.to(tensor.device)
            if len(step.dims) == 1:
                tensor = tensor.index_select(step.dims[0], index)
            else:
                front = tuple(range(len(step.dims)))
                flat = tensor.movedim(step.dims, front).flatten(0, len(front) - 1)
                kept = flat.index_select(0, index).unflatten(0, step.sizes)
                tensor = kept.movedim(front, step.dims)
        return tensor

    def _rows_of(self, tensor: torch.Tensor) -> Rows | None:
        """What to take of a large weight in one go, if it can be."""
        is_large = tensor.numel() >= LARGE and tensor.ndim > 1
        if not (is_large and self.steps) or torch.compiler.is_compiling():
            return None
        rows = self._rows
        if rows is None or rows.shape != tensor.shape or not rows.is_on(tensor.device):
            kept: list[torch.Tensor | None] = [None, None]
            for step in self.steps:
                if isinstance(step.places, slice) or len(step.dims) > 1 or step.dims[0] > 1:
                    return None
                kept[step.dims[0]] = step.places.to(tensor.device)
            rows = Rows(tensor.shape, kept[0], kept[1])
            if tensor.requires_grad and torch.is_grad_enabled():  # it is needed once more
                self._rows = rows
        return rows if tensor.is_contiguous() else None

    def write_back(self, full: torch.Tensor, part: torch.Tensor) -> None:
        """Copy a kept part into the places of ``full`` that it was taken from."""
        if len(self.steps) == 1 and len(self.steps[0].dims) == 1:
            (step,) = self.steps
            if isinstance(step.places, torch.Tensor):
                full.index_copy_(step.dims[0], step.places.to(full.device), part)
                return
        places = self(torch.arange(full.numel(), device=full.device).reshape(full.shape))
        full.view(-1)[places.flatten()] = part.flatten()


def plain_cut(shape: Sequence[int], places: Sequence[tuple[int, torch.Tensor | slice, int]]) -> Cut:
    """The cut of dims that each lose positions of their own.

    Args:
        shape: Shape of the full tensor.
        places: (dim, kept positions, their number) of every dim that loses something.
    """
    new_shape = list(shape)
    for dim, _, count in places:
        new_shape[dim] = count
    return Cut(tuple(new_shape), tuple([_Step((dim,), index, (n,)) for dim, index, n in places]))


def grouped_cut(
    shape: Sequence[int], outputs: np.ndarray | None, inputs: np.ndarray | None, groups: int
) -> Cut:
    """The cut of a grouped convolution's weight whose channels are kept in any order.

    Args:
        shape: Shape of the weight, (O, I / groups, ...).
        outputs: Kept outputs, equally many of each group, group by group; None for all.
        inputs: Kept inputs, likewise, numbered from 0 to I - 1.
        groups: Number of groups, which stays.

    Raises:
        ValueError: Some group keeps another number of channels, or channels of another group.
    """
    sides = []
    for kept, each in ((outputs, shape[0] // groups), (inputs, shape[1])):
        kept = np.arange(groups * each) if kept is None else kept
        blocks = kept.reshape(groups, -1) if len(kept) % groups == 0 else kept[None]
        if len(blocks) != groups or (blocks // each != np.arange(groups)[:, None]).any():
            counts = np.bincount(kept // each, minlength=groups)
            raise ValueError(
                f'its {groups} groups keep between {counts.min()} and {counts.max()} channels, or '
                'not one group after the other; they must keep equally many'
            )
        sides.append(blocks)
    rows, columns = sides
    index = rows[:, :, None] * shape[1] + columns[:, None, :] % shape[1]
    sizes = (rows.size, columns.shape[1])
    step = _Step((0, 1), torch.from_numpy(index.ravel()), sizes)
    return Cut((*sizes, *shape[2:]), (step,))


def _is_run(index: np.ndarray) -> bool:
    return bool(index[-1] - index[0] + 1 == len(index))


def _step(dims: tuple[int, ...], mask: BoolArray) -> _Step | None:
    """A step for one cluster of dims; ``mask`` has one dim for each. None if it is no box."""
    index = np.flatnonzero(mask)
    if len(dims) == 1:
        run = slice(int(index[0]), int(index[-1]) + 1) if _is_run(index) else None
        return _Step(dims, run or torch.from_numpy(index), (len(index),))
    sizes = []
    for rank in range(1, mask.ndim + 1):
        # At least one element is kept at this place of the first dims.
        alive = mask.reshape(*mask.shape[:rank], -1).any(axis=-1)
        counts = alive.sum(axis=-1)
        counts = counts[counts > 0]
        if counts.min() != counts.max():
            return None
        sizes.append(int(counts.min()))
    return _Step(dims, torch.from_numpy(index), tuple(sizes))


def cut_of_masks(shape: Sequence[int], masks: Sequence[BoolArray]) -> Cut:
    """The cut that keeps the elements for which every mask is True.

    Args:
        shape: Shape of the full tensor.
        masks: Bool arrays of the tensor's rank, each dim of full size or 1. Masks that share
            a dim are combined; their kept elements must fill a box.

    Raises:
        ValueError: Nothing is left, or what is left is no box.
    """
    clusters: list[tuple[set[int], BoolArray]] = []
    for mask in masks:
        dims = {dim for dim, size in enumerate(mask.shape) if size > 1}
        touching = [c for c in clusters if c[0] & dims]
        clusters = [c for c in clusters if not c[0] & dims]
        for other_dims, other in touching:
            dims, mask = dims | other_dims, mask & other
        clusters.append((dims, mask))
    new_shape, steps = list(shape), []
    for dim_set, mask in clusters:
        if mask.all():
            continue
        if not mask.any():
            raise ValueError(f'no element of a tensor of shape {tuple(shape)} is kept')
        cut_dims = tuple(sorted(dim_set))
        step = _step(cut_dims, mask.reshape([shape[dim] for dim in cut_dims]))
        if step is None:
            raise ValueError(f'the kept elements of a tensor of shape {tuple(shape)} are no box')
        steps.append(step)
        for dim, size in zip(cut_dims, step.sizes, strict=True):
            new_shape[dim] = size
    return Cut(tuple(new_shape), tuple(steps))
