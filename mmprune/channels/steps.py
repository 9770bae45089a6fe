"""What becomes of the places of channels between layers, as steps that run at any width.

Labels say what a full network does with its channels. Where channels are shuffled, a smaller
network does not do the same with the ones that it has: it deals them anew. These steps say what
it does, given the number of channels that each layer makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmprune.channels.labels import IntArray

Numbers = tuple[int, ...]


class NoSuchWidthError(Exception):
    """A step cannot be taken at this width: what it divides is no multiple."""


@dataclass(frozen=True)
class Step:
    """One array of places, made of those before it.

    Attributes:
        kind: What is done, a key of ``KINDS``; ``'source'`` for the channels of a layer.
        numbers: What it needs that does not shrink: numbers of groups, of parts.
        inputs: Numbers of the steps that made what it reads.
    """

    kind: str
    numbers: Numbers = ()
    inputs: tuple[int, ...] = ()


def _cut(arrays: list[IntArray], fixed: Numbers) -> IntArray:
    """Blocks: the leading dims stay as large as they are, the last one shrinks."""
    (places,) = arrays
    if places.size % int(np.prod(fixed)):
        raise NoSuchWidthError
    return places.reshape(*fixed, -1)


def _part(arrays: list[IntArray], numbers: Numbers) -> IntArray:
    """One of several parts of equal size."""
    (places,), (number, parts) = arrays, numbers
    if len(places) % parts:
        raise NoSuchWidthError
    size = len(places) // parts
    return places[number * size : (number + 1) * size]


def _chunk(arrays: list[IntArray], numbers: Numbers) -> IntArray:
    """One of several chunks as ``torch.chunk`` makes them: the last one may be smaller."""
    (places,), (number, chunks) = arrays, numbers
    size = -(-len(places) // chunks)
    if (chunks - 1) * size >= len(places):
        raise NoSuchWidthError
    return places[number * size : (number + 1) * size]


def _alike(arrays: list[IntArray], numbers: Numbers) -> IntArray:
    """Tensors that meet element by element have the same channels at the same places."""
    first, *others = arrays
    if any(not np.array_equal(first, other) for other in others):
        raise NoSuchWidthError
    return first


KINDS: dict[str, Callable[[list[IntArray], Numbers], IntArray]] = {
    'cut': _cut,
    'flat': lambda arrays, _: arrays[0].reshape(-1),
    'turn': lambda arrays, dims: arrays[0].transpose(dims),
    'cat': lambda arrays, _: np.concatenate(arrays),
    'part': _part,
    'chunk': _chunk,
    'alike': _alike,
}


def run_steps(steps: Sequence[Step], sizes: Sequence[int]) -> list[IntArray]:
    """The array of every step.

    Args:
        steps: In an order in which each comes after its inputs.
        sizes: How many channels each source makes; they are numbered from 0 on, those of the
            first source first.

    Raises:
        NoSuchWidthError: No network has sources of these sizes.
    """
    starts = np.cumsum([0, *sizes])
    made: list[IntArray] = []
    for step in steps:
        if step.kind == 'source':
            (number,) = step.numbers
            made.append(np.arange(starts[number], starts[number + 1]))
        else:
            made.append(KINDS[step.kind]([made[i] for i in step.inputs], step.numbers))
    return made
