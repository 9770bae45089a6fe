"""Counts of kept labels as linear forms in the widths of the channel groups.

The width of a group is the number of channels that it keeps. An array of labels in which
every channel of a group occurs m times has m times the group's width of them alive; so it
has where constraints keep its blocks equally wide, as in each half of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd, lcm

import numpy as np

from mmprune.channels.groups import ChannelGroup
from mmprune.channels.labels import IntArray, axes_of
from mmprune.cost.terms import Cluster, Term
from mmprune.errors import InputError


class CostError(InputError):
    """A cost that depends on which channels are kept, or widths that no subnet has."""


@dataclass(frozen=True)
class LinearForm:
    """``constant`` plus a coefficient times the width of each of some groups.

    Attributes:
        constant: Labels that no subnet loses.
        coefficients: (number of the group, coefficient), by number, none of them 0.
    """

    constant: Fraction
    coefficients: tuple[tuple[int, Fraction], ...]

    def over(self, divisor: int) -> LinearForm:
        """The form divided by a whole number."""
        divided = tuple((group, c / divisor) for group, c in self.coefficients)
        return LinearForm(self.constant / divisor, divided)

    def primitive(self) -> tuple[Fraction, LinearForm]:
        """The form as a positive factor times one of whole numbers without common divisor."""
        numbers = [c for c in (self.constant, *(c for _, c in self.coefficients)) if c]
        if not numbers:
            return Fraction(0), self
        denominator = reduce(lcm, (number.denominator for number in numbers))
        whole = [int(number * denominator) for number in numbers]
        factor = Fraction(reduce(gcd, whole), denominator)
        scaled = tuple((group, c / factor) for group, c in self.coefficients)
        return factor, LinearForm(self.constant / factor, scaled)


class WidthForms:
    """Reads arrays of labels as linear forms in the widths of the prunable groups.

    Args:
        groups: All groups by ``space_id``.
        num_labels: How many labels there are.
        mean: Whether a number that depends on which channels are kept is read as its mean over all
            sets of so many, instead of refused.

    Attributes:
        names: The prunable groups, in their order.
        full: Their full widths, (groups,).
        multiples: What each of their widths is a multiple of, as far as seen, (groups,).
    """

    def __init__(
        self, groups: Mapping[str, ChannelGroup], num_labels: int, mean: bool = False
    ) -> None:
        self.mean = mean
        prunable = {space_id: group for space_id, group in groups.items() if group.prunable}
        self.names = tuple(prunable)
        self.groups = tuple(prunable.values())
        self.full = np.array([group.num_channels for group in self.groups], np.int64)
        self.multiples = np.array([_multiple_of(group) for group in self.groups], np.int64)
        self._owner = np.full(num_labels + 1, -1)  # the last one is for labels below 0
        self._channel = np.full(num_labels + 1, -1)
        for number, group in enumerate(self.groups):
            self._owner[group.labels] = number
            self._channel[group.labels] = np.arange(group.num_channels)
        self._known: dict[bytes, LinearForm] = {}

    def form(self, labels: IntArray, what: str) -> LinearForm:
        """How many of ``labels`` are alive.

        Raises:
            CostError: It depends on more than widths.
        """
        flat = np.maximum(labels.ravel(), -1)
        key = flat.tobytes()
        if key not in self._known:
            self._known[key] = self._read(flat, what)
        return self._known[key]

    def _read(self, flat: IntArray, what: str) -> LinearForm:
        owner = self._owner[flat]
        coefficients = []
        for number in np.unique(owner[owner >= 0]).tolist():
            group = self.groups[number]
            channels = self._channel[flat[owner == number]]
            times = np.bincount(channels, minlength=group.num_channels)
            coefficient = Fraction(int(times.sum()), group.num_channels)
            if times.min() == times.max() or _is_even(times, group):
                multiple = lcm(int(self.multiples[number]), coefficient.denominator)
                self.multiples[number] = multiple
            elif not self.mean:
                raise CostError(
                    f"{what}: its size depends on which channels of group '{group.space_id}' "
                    f'are kept, not only on how many: it has {int((times > 0).sum())} of the '
                    f'{group.num_channels}. Ask for each subnet by pruner.cost(subnet).'
                )
            coefficients.append((number, coefficient))
        return LinearForm(Fraction(int((owner < 0).sum())), tuple(coefficients))

    def forms_of(self, term: Term) -> list[LinearForm]:
        """Forms whose product, times the constant over the divisor, is the term."""
        return [form for c in term.clusters for form in self._cluster(c, term.what)]

    def _cluster(self, cluster: Cluster, what: str) -> list[LinearForm]:
        """The forms of arrays that share dims: those of the others, and that of each row."""
        if len(cluster) == 1:
            return [self.form(cluster[0], what)]
        *others, widest = sorted(cluster, key=lambda labels: len(axes_of(labels)))
        shared = sorted({dim for other in others for dim in axes_of(other)})
        if not set(shared) <= set(axes_of(widest)):
            raise CostError(f'{what}: its dims shrink together in a way that widths do not tell')
        rows = np.moveaxis(widest, shared, range(len(shared)))
        rows = rows.reshape(int(np.prod(rows.shape[: len(shared)])), -1)
        inside = {self.form(row, what) for row in np.unique(rows, axis=0)}
        if len(inside) > 1 and self.mean:
            inside = {self.form(widest, what).over(len(rows))}
        elif len(inside) > 1:
            raise CostError(
                f'{what}: its {len(rows)} blocks do not shrink alike, so that its size depends on '
                'which channels are kept. Ask for each subnet by pruner.cost(subnet).'
            )
        return [*self._cluster(tuple(others), what), *inside]

    def check(self, widths: IntArray) -> None:
        """Refuse widths that no subnet has.

        Args:
            widths: Whole numbers, (subnets, groups).

        Raises:
            CostError: One of them is below 1, above the group's channels, or no multiple.
        """
        wrong = (widths < 1) | (widths > self.full) | (widths % self.multiples != 0)
        if wrong.any():
            row, number = (int(i) for i in np.argwhere(wrong)[0])
            multiple = int(self.multiples[number])
            step = f', in multiples of {multiple}' if multiple > 1 else ''
            raise CostError(
                f'widths: row {row} keeps {int(widths[row, number])} channels of group '
                f"'{self.names[number]}', which keeps 1 to {int(self.full[number])}{step}"
            )


def _multiple_of(group: ChannelGroup) -> int:
    """What the constraints make every width of a group a multiple of."""
    multiple = 1
    for constraint in group.constraints:
        times = np.bincount(constraint.blocks.ravel(), minlength=group.num_channels)
        if times.min() == times.max():  # n blocks keep k channels each: n k = times * width
            count = len(constraint.blocks)
            multiple = lcm(multiple, count // gcd(count, int(times[0])))
    return multiple


def _is_even(times: IntArray, group: ChannelGroup) -> bool:
    """Whether constraints make every valid mask keep its share of unevenly met channels.

    A constraint says that the differences of its blocks are 0 for every valid mask. So the
    number of met channels is a multiple of the width if what is met more or less often
    than on average is a sum of such differences.
    """
    differences = [
        np.bincount(block, minlength=group.num_channels)
        - np.bincount(constraint.blocks[0], minlength=group.num_channels)
        for constraint in group.constraints
        for block in constraint.blocks[1:]
    ]
    if not differences:
        return False
    uneven = times - times.mean()
    matrix = np.stack(differences, axis=1).astype(np.float64)
    found = np.linalg.lstsq(matrix, uneven, rcond=None)[0]
    return bool(np.allclose(matrix @ found, uneven, rtol=0, atol=1e-8 * max(1, times.max())))
