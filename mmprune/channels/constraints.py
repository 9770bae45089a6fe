"""What a mask of a channel group must obey beyond its length, and how to obey it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mmprune.channels.proportions import Linked, proportions
from mmprune.errors import InputError

IntArray = np.ndarray
BoolArray = np.ndarray


@dataclass(frozen=True)
class EqualBlocks:
    """Every row of ``blocks`` (count, size), of channel numbers, keeps equally many.

    Source: a convolution with groups, a normalisation by groups, a view that cuts the
    channels into blocks: all of them need blocks of one size in the deployed network.
    """

    blocks: IntArray
    reason: str

    def counts(self, mask: BoolArray) -> IntArray:
        """Kept channels of every block."""
        return mask[self.blocks].sum(axis=1)

    def holds(self, mask: BoolArray) -> bool:
        """Whether ``mask`` keeps equally many, and at least one, in every block."""
        counts = self.counts(mask)
        return bool(counts[0] > 0 and (counts == counts[0]).all())


@dataclass(frozen=True)
class Shrinking:
    """Constraints, and the sets of channels that they let shrink in proportion.

    Attributes:
        constraints: What a mask must obey.
        linked: See ``proportions``, the channels without constraints added; None if only an
            integer program tells which masks there are.
    """

    constraints: tuple[EqualBlocks, ...]
    linked: list[Linked] | None

    @cached_property
    def sets_alike(self) -> list[Linked]:
        """``linked``, with those of one size and weight as the rows of one array."""
        found = []
        for linked in self.linked or ():
            rows: dict[tuple[int, int], list[IntArray]] = {}
            for channels, weight in linked:
                rows.setdefault((len(channels), weight), []).append(channels)
            found.append([(np.stack(own), weight) for (_, weight), own in rows.items()])
        return found

    @classmethod
    def of(cls, size: int, constraints: tuple[EqualBlocks, ...]) -> Shrinking:
        """For a group of ``size`` channels."""
        blocks = [constraint.blocks for constraint in constraints]
        linked = proportions(blocks) if blocks else None
        if linked is not None:
            free = np.setdiff1d(np.arange(size), np.concatenate([b.ravel() for b in blocks]))
            linked += [[(free, 1)]] if len(free) else []
        return cls(constraints, linked)


def select(scores: np.ndarray, count: int, shrinking: Shrinking) -> BoolArray:
    """The mask of about ``count`` channels with the highest scores that obeys constraints.

    Without constraints exactly ``count`` channels (at least 1) are kept, ties going to
    the lower channel number. Blocks round the count to a multiple of their number, at
    least one per block.

    Args:
        scores: One float per channel, (C,).
        count: How many channels to keep.
        shrinking: What the mask must obey.

    Raises:
        InputError: A score is NaN or infinite.
    """
    check_finite(scores)
    mask = np.zeros(len(scores), bool)
    if not shrinking.constraints:
        best = np.argsort(-scores, kind='stable')
        mask[best[: max(1, min(count, len(scores)))]] = True
        return mask
    if shrinking.linked is None:
        return _select_by_program(scores, count, shrinking.constraints)
    share = count / len(scores)
    for sets in shrinking.sets_alike:
        steps = min([channels.shape[1] // weight for channels, weight in sets])
        wanted = share * sum([channels.size for channels, _ in sets])
        step = round_half_up(wanted / sum([weight * len(channels) for channels, weight in sets]))
        for channels, weight in sets:
            best = np.argsort(-scores[channels], axis=1, kind='stable')
            best = best[:, : weight * max(1, min(steps, step))]
            mask[np.take_along_axis(channels, best, axis=1)] = True
    return mask


def as_scores(scores: Any, num_channels: int) -> np.ndarray:
    """One finite number per channel, (C,), from an array, a tensor or a list.

    Raises:
        InputError: There are more or fewer, or what is there is no number.
    """
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().resolve_conj()
        scores = (scores if scores.is_complex() else scores.double()).numpy()
    found = np.array(scores)
    if found.dtype.kind not in 'buif' or found.shape != (num_channels,):
        raise InputError(
            f'{num_channels} channels need as many scores, but these are of shape {found.shape} '
            f'and type {found.dtype}'
        )
    found = found.astype(np.float64)
    check_finite(found)
    return found


def check_finite(scores: np.ndarray) -> None:
    """Refuse scores by which nothing can be chosen.

    Raises:
        InputError: A score is NaN or infinite.
    """
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise InputError(
            f'{wrong} of {len(scores)} channel scores are NaN or infinite: are there such weights '
            'in the model?'
        )


def round_half_up(value: float) -> int:
    """Nearest whole number, halves upward: 2.5 gives 3, unlike ``round``."""
    return int(np.floor(value + 0.5))


def _select_by_program(
    scores: np.ndarray, count: int, constraints: tuple[EqualBlocks, ...]
) -> BoolArray:
    """An integer program: choose channels, stay close to ``count``, obey every block."""
    size = len(scores)
    spread = float(np.ptp(scores)) or 1.0
    gain = (scores - scores.min()) / spread / (2 * size)  # all gains together: under 1/2
    # Variables: x (one per channel), and the distance of their number from ``count``.
    cost = np.concatenate([-gain, [1.0]])
    rows, lower, upper = [], [], []
    for constraint in constraints:
        incidence = np.stack([np.bincount(b, minlength=size) for b in constraint.blocks])
        rows += [incidence[1:] - incidence[:1], incidence[:1]]
        lower += [np.zeros(len(incidence) - 1), np.ones(1)]
        upper += [np.zeros(len(incidence) - 1), np.full(1, np.inf)]
    matrix = np.concatenate(rows)
    matrix = np.concatenate([matrix, np.zeros((len(matrix), 1))], axis=1)
    total = np.ones((1, size))
    distance = np.block([[total, np.full((1, 1), -1.0)], [total, np.full((1, 1), 1.0)]])
    result = milp(
        cost,
        integrality=np.concatenate([np.ones(size), [0]]),
        bounds=Bounds(np.zeros(size + 1), np.concatenate([np.ones(size), [np.inf]])),
        constraints=[
            LinearConstraint(csr_array(matrix), np.concatenate(lower), np.concatenate(upper)),
            LinearConstraint(distance, [-np.inf, count], [count, np.inf]),
        ],
        options={'mip_rel_gap': 1e-6},
    )
    if result.x is None:
        raise RuntimeError(f'no mask obeys {[c.reason for c in constraints]}: {result.message}')
    return result.x[:size] > 0.5
