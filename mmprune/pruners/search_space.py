"""The widths that a search may choose from, and the nearest choice within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch

from mmprune.channels.labels import IntArray
from mmprune.errors import InputError, nearest

Choices = Mapping[str, int]
"""``space_id`` -> how many channels the group keeps."""
Cost = Mapping[str, float]
Fits = Callable[[Sequence[Sequence[int]]], Sequence[bool]]
"""Whether each of some subnets, given by its levels, is within a budget."""


@dataclass(frozen=True)
class SearchSpace(Mapping[str, tuple[int, ...]]):
    """``space_id`` -> the numbers of channels that a group may keep, narrowest first.

    Attributes:
        masks: The kept channels of every choice, by the importance when the space was made.
        constraints: What a group's mask must obey, in words; empty where nothing.
        costs: Of the ``smallest``, ``median`` and ``largest`` subnet.
    """

    masks: Mapping[str, Mapping[int, torch.Tensor]]
    constraints: Mapping[str, str]
    costs: Mapping[str, Cost]

    @cached_property
    def _widths(self) -> dict[str, tuple[int, ...]]:
        return {space_id: tuple(masks) for space_id, masks in self.masks.items()}

    def __getitem__(self, space_id: str) -> tuple[int, ...]:
        return self._widths[space_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def size(self) -> int:
        """How many subnets there are."""
        return prod(map(len, self.masks.values()))

    def subnet(self, choices: Choices) -> dict[str, torch.Tensor]:
        """The subnet of choices, each one of the space; a group that is left out stays whole."""
        return self.subnet_at(self.levels(choices))

    def at(self, levels: Sequence[int]) -> dict[str, int]:
        """The choices of levels: 0 is a group's narrowest width, 1 the next one, and so on."""
        return {s: w[level] for (s, w), level in zip(self._widths.items(), levels, strict=True)}

    def subnet_at(self, levels: Sequence[int]) -> dict[str, torch.Tensor]:
        """The subnet of levels."""
        widths = self.at(levels)
        return {space_id: masks[widths[space_id]] for space_id, masks in self.masks.items()}

    def widths_at(self, rows: Sequence[Sequence[int]]) -> IntArray:
        """Kept channels of subnets, (subnets, groups), by their levels, of the same shape."""
        return np.array([list(self.at(levels).values()) for levels in rows], np.int64)

    def levels(self, choices: Choices) -> list[int]:
        """The levels that are nearest to choices; the narrower one of two that are equally near.

        Raises:
            InputError: A group is unknown, or a choice is no whole number above 0.
        """
        check_choices(choices, self)
        return [
            min(range(len(widths)), key=lambda level: abs(widths[level] - wish))
            for widths, wish in ((w, choices.get(s, w[-1])) for s, w in self._widths.items())
        ]

    def __str__(self) -> str:
        rows = [
            f'{space_id}: {", ".join(map(str, widths))}'
            + (f' ({self.constraints[space_id]})' if self.constraints[space_id] else '')
            for space_id, widths in self.items()
        ]
        of_whom = (
            f'{name}: ' + ', '.join(f'{value:,.0f} {kind}' for kind, value in cost.items())
            for name, cost in self.costs.items()
        )
        return '\n'.join([*rows, f'{self.size:,} subnets', *of_whom])


def check_choices(choices: Choices, known: Mapping[str, object]) -> None:
    """Refuse groups that there are not, and numbers of channels that are none.

    Raises:
        InputError: Names the group.
    """
    for space_id, count in choices.items():
        if space_id not in known:
            raise InputError(
                f'choices: there is no prunable group {space_id!r}; {nearest(space_id, known)}'
            )
        if isinstance(count, bool) or int(count) != count or count < 1:
            raise InputError(f"choices: '{space_id}' cannot keep {count!r} channels")


def nearest_within(space: SearchSpace, choices: Choices, fits: Fits) -> dict[str, int] | None:
    """Choices as wide as a budget allows, none of them wider than is wished.

    All groups first keep the same share of the way from their narrowest width to the wish, the
    largest that fits, found by bisection; then groups get back a step each, in the order of the
    space, until no single step fits.

    Args:
        space: What there is to choose from.
        choices: The wish.
        fits: Whether choices are within the budget. Wider ones never fit where narrower do not.

    Returns:
        The wish if it fits; None if not even the narrowest widths do.
    """
    wish = np.array(space.levels(choices))

    def fitting(rows: np.ndarray) -> list[bool]:
        return list(fits(rows.tolist())) if len(rows) else []

    if fitting(wish[None])[0]:
        return space.at(wish.tolist())
    # The shares at which a group takes its next step.
    shares = sorted({level / most for most in wish.tolist() for level in range(most + 1) if most})
    ways = np.array([(wish * share + 1e-9).astype(int) for share in shares or [0]])
    if not fitting(ways[:1])[0]:
        return None
    low, high = 0, len(ways) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fitting(ways[middle][None])[0] else (low, middle)
    levels = ways[low]
    steps = np.eye(len(wish), dtype=int)[levels < wish]
    while len(steps):
        steps = steps[fitting(levels + steps)]  # what fits no more never will
        sums = levels + steps.cumsum(axis=0)
        # All of them fit up to some place, and none behind it: costs grow.
        levels = max([levels, *sums[fitting(sums)]], key=lambda row: row.sum())
        steps = steps[(levels + steps <= wish).all(axis=1)]
    return space.at(levels.tolist())
