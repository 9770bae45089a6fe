"""Channels that a shuffle deals anew at every width: which may stay, and in which order they come.

The channels that one layer makes and that the same layers read, in the same of their groups, are of
one *kind*. A network of smaller width has fewer of every kind, and has them at other places. It
computes what a subnet of the full one does if the subnet keeps that many of each kind, and if what
reads them is cut in the order in which the small network delivers them: a layer's inputs may
stand in any order, as long as its weights stand in the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import gcd

import numpy as np

from mmprune.channels.labels import IntArray
from mmprune.channels.steps import NoSuchWidthError, Step, run_steps

BoolArray = np.ndarray


@dataclass(frozen=True)
class Dealt:
    """What a network of one width does with its channels.

    Attributes:
        rows: The channels at every place, for each step.
        kinds: Kind of every channel, a number among the kinds of the full network.
        counts: How many channels there are of each kind.
    """

    rows: list[IntArray]
    kinds: IntArray
    counts: IntArray


@dataclass(frozen=True, eq=False)
class Mixed:
    """Labels along a dim of a tensor, of which some runs are shuffled.

    Attributes:
        labels: All of them, (n,).
        bounds: Where the runs begin and end, from 0 to n.
    """

    labels: IntArray
    bounds: tuple[int, ...]

    def places(self, found: Mapping[bytes, IntArray], alive: BoolArray) -> IntArray:
        """The kept positions, given those of shuffled runs, and which labels are kept."""
        kept = []
        for start, stop in zip(self.bounds, self.bounds[1:], strict=False):
            run = self.labels[start:stop]
            order = found.get(row_key(run))
            is_kept = alive[np.maximum(run, 0)] | (run < 0)
            kept.append(start + (np.flatnonzero(is_kept) if order is None else order))
        return np.concatenate(kept)


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Channels of one or several layers, which shuffles mix.

    All layers keep the same share of theirs: ``step`` times a smallest number, see ``each``.

    Attributes:
        labels: The channels, those of each source end to end.
        sizes: How many channels each source has.
        steps: What is done with them.
        sites: (step, blocks) of every place where a layer has the channels of a step, as so many
            groups of equal size.
        rows: Bytes of the labels along a dim of a tensor -> the step that has them.
        reason: Where they are shuffled.
        mixed: Rows that have channels of others too.
    """

    labels: IntArray
    sizes: tuple[int, ...]
    steps: tuple[Step, ...]
    sites: tuple[tuple[int, int], ...]
    rows: Mapping[bytes, int]
    reason: str
    mixed: tuple[Mixed, ...] = ()
    _dealt: dict[int, Dealt | None] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """How many steps of width there are, the full one included."""
        return reduce(gcd, self.sizes)

    @property
    def each(self) -> int:
        """How many channels of all layers together make one step of width."""
        return len(self.labels) // self.most

    @property
    def num_kinds(self) -> int:
        """How many kinds of channels there are."""
        return len(self._full[1])

    @property
    def kinds(self) -> IntArray:
        """The kind of every channel, (n,)."""
        return self._full[2]

    @cached_property
    def _full(self) -> tuple[list[IntArray], np.ndarray, IntArray]:
        """Rows at full width, the signature of every kind, in order, and each channel's kind."""
        rows = run_steps(self.steps, self.sizes)
        signatures, kinds = np.unique(self._signatures(rows), return_inverse=True)
        return rows, signatures, kinds

    def _signatures(self, rows: list[IntArray]) -> np.ndarray:
        """A number per channel that says in which groups of which layers it is."""
        random = np.random.default_rng(0)
        count = 1 + max(int(row.max()) for row in rows)
        found = np.zeros(count, np.uint64)
        for number, blocks in self.sites:
            row = rows[number]
            if len(row) % blocks:
                raise NoSuchWidthError
            weights = random.integers(1, 2**63, size=blocks, dtype=np.uint64)
            np.add.at(found, row, np.repeat(weights, len(row) // blocks))
        return found

    def dealt(self, step: int) -> Dealt | None:
        """What a network of this width does; None if it is no part of the full one."""
        if step not in self._dealt:
            self._dealt[step] = self._deal(step) if 0 < step <= self.most else None
        return self._dealt[step]

    def _deal(self, step: int) -> Dealt | None:
        _, signatures, kinds = self._full
        try:
            rows = run_steps(self.steps, [size // self.most * step for size in self.sizes])
            found = self._signatures(rows)
        except NoSuchWidthError:
            return None
        own = np.minimum(np.searchsorted(signatures, found), len(signatures) - 1)
        counts = np.bincount(own, minlength=len(signatures))
        if (signatures[own] != found).any() or (counts > np.bincount(kinds)).any():
            return None
        return Dealt(rows, own, counts)

    def nearest(self, share: float) -> int:
        """The width nearest to a share of the full one, of two the larger, that a subnet can have.

        The full one always can.
        """
        wanted = share * self.most
        order = sorted(range(1, self.most + 1), key=lambda step: (abs(step - wanted), -step))
        return next(step for step in order if self.dealt(step) is not None)

    def choose(self, scores: np.ndarray, share: float) -> BoolArray:
        """The mask of about this share of the channels with the highest scores of their kinds.

        Args:
            scores: One per channel, (n,).
            share: What is wanted, from 0 to 1.
        """
        dealt = self.dealt(self.nearest(share))
        assert dealt is not None  # ``nearest`` has tried it
        kinds = self._full[2]
        order = np.lexsort((np.arange(len(scores)), -scores, kinds))
        sizes = np.bincount(kinds)
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        mask = np.zeros(len(scores), bool)
        mask[order] = place < dealt.counts[kinds[order]]
        return mask

    def problem_with(self, mask: BoolArray) -> str:
        """Why no smaller network has the channels of ``mask``, (n,) bool; empty if one has."""
        count, size = int(mask.sum()), len(mask)
        step, rest = divmod(count, self.each)
        dealt = None if rest else self.dealt(step)
        if dealt is None:
            widths = [s for s in range(1, self.most + 1) if self.dealt(s) is not None]
            near = sorted(widths, key=lambda s: abs(s * self.each - count))[:2]
            allowed = ' or '.join(str(s * self.each) for s in sorted(near))
            return f'keeps {count} of {size} channels; {allowed} can be kept ({self.reason})'
        kinds = self._full[2]
        kept = np.bincount(kinds[mask], minlength=len(dealt.counts))
        wrong = np.flatnonzero(kept != dealt.counts)
        if not len(wrong):
            return ''
        kind = int(wrong[0])
        return (
            f'keeps {kept[kind]} of {int((kinds == kind).sum())} channels that the same layers '
            f'read in the same groups; of {count} channels {dealt.counts[kind]} of them must stay '
            f'({self.reason})'
        )

    def places(self, mask: BoolArray) -> dict[bytes, IntArray]:
        """The kept positions of every row, in the order in which the smaller network has them.

        Args:
            mask: Kept channels, (n,); a valid choice.

        Raises:
            ValueError: It is none.
        """
        problem = self.problem_with(mask)
        if problem:
            raise ValueError(problem)
        dealt = self.dealt(int(mask.sum()) // self.each)
        assert dealt is not None  # else there would be a problem
        full, _, kinds = self._full
        kept = np.flatnonzero(mask)
        channel = np.empty(len(kept), np.int64)
        channel[np.argsort(dealt.kinds, kind='stable')] = kept[
            np.argsort(kinds[kept], kind='stable')
        ]
        found = {}
        for key, number in self.rows.items():
            place = np.empty(len(mask), np.int64)
            place[full[number]] = np.arange(len(full[number]))
            found[key] = place[channel[dealt.rows[number]]]
        return found


def row_key(labels: IntArray) -> bytes:
    """What the labels along a dim of a tensor are looked up by."""
    return np.ascontiguousarray(labels, dtype=np.int64).tobytes()


def places_of(arrangements: Collection[Arrangement], alive: BoolArray) -> dict[bytes, IntArray]:
    """The order of everything that a subnet keeps in another one than the full network's.

    Args:
        arrangements: What is shuffled.
        alive: The labels that are kept, (num_labels,).

    Returns:
        Bytes of a row of labels -> its kept positions.
    """
    found: dict[bytes, IntArray] = {}
    for arrangement in arrangements:
        mask = alive[arrangement.labels]
        if not mask.all():
            found.update(arrangement.places(mask))
    rows = [row for arrangement in arrangements for row in arrangement.mixed] if found else []
    found.update({row_key(row.labels): row.places(found, alive) for row in rows})
    return found
