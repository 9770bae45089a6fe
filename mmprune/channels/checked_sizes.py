"""Numbers that operations are given for sizes, which must be right in every subnet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmprune.channels.arrangement import Arrangement
from mmprune.channels.constraints import BoolArray
from mmprune.channels.facts import IntArray, Size
from mmprune.channels.sizes import SizeAttribute, size_in
from mmprune.trace.expressions import Attribute, Dim, Expression, evaluate


@dataclass(frozen=True)
class CheckedSize:
    """A number that must be the size of a dim in every subnet.

    Attributes:
        index: Which of the readings of the trace it is.
        size: The dim, or a part of it.
        expression: Where the number comes from.
        origins: The dims that it is computed from, and the full values of attributes.
    """

    index: int
    size: Size
    expression: Expression
    origins: Mapping[Dim | Attribute, Size | int]

    def labels(self) -> IntArray:
        """All labels that it depends on."""
        sizes = [self.size, *(own for own in self.origins.values() if isinstance(own, Size))]
        parts = [factor.ravel() for size in sizes for factor in size.factors]
        return np.concatenate([np.zeros(0, np.int64), *parts])


def not_dealt(
    checked: Iterable[CheckedSize], arrangements: Iterable[Arrangement], num_labels: int
) -> list[CheckedSize]:
    """Those without channels that are dealt anew at every width."""
    dealt = np.zeros(num_labels + 1, bool)  # the last one is for labels below 0
    for arrangement in arrangements:
        dealt[arrangement.labels] = True
    return [c for c in checked if not dealt[np.maximum(c.labels(), -1)].any()]


def misread(
    checked: Iterable[CheckedSize], attributes: Sequence[SizeAttribute], alive: BoolArray
) -> set[int]:
    """The readings that are wrong in the subnet whose labels are ``alive``.

    Not for channels that are dealt anew at every width: their places in the full network say
    nothing, see ``Arrangement``.
    """
    mended: dict[Dim | Attribute, int] = {
        Attribute(own.module, own.name, own.index): size_in(own.size, alive) for own in attributes
    }
    counts: dict[int, int] = {}

    def count(size: Size) -> int:
        if id(size) not in counts:
            counts[id(size)] = size_in(size, alive)
        return counts[id(size)]

    wrong = set()
    for check in checked:

        def value_of(leaf: Dim | Attribute, check: CheckedSize = check) -> int:
            origin = check.origins[leaf]
            if isinstance(origin, int):
                return mended.get(leaf, origin)
            return count(origin)

        if evaluate(check.expression, value_of) != count(check.size):
            wrong.add(check.index)
    return wrong
