"""Constraints that say something the others do not."""

from __future__ import annotations

import numpy as np

from mmprune.channels.labels import EqualCounts


def independent(constraints: list[EqualCounts]) -> list[EqualCounts]:
    """The constraints that say something the others do not.

    Each once, and none whose rows are made up of the rows of finer ones, the same number
    of each in every row.
    """
    unique: dict[tuple[tuple[int, ...], bytes], EqualCounts] = {}
    for constraint in constraints:
        if len(constraint.keys) > 1:
            numbers = b''.join(sorted(constraint.keys))
            rows = np.frombuffer(numbers, constraint.rows.dtype).reshape(len(constraint.keys), -1)
            unique.setdefault((rows.shape, numbers), EqualCounts(rows, constraint.reason))
    candidates = sorted(unique.values(), key=lambda c: -c.rows.shape[1])
    kept: list[EqualCounts] = []
    for position, constraint in enumerate(candidates):
        if not _is_implied(constraint, candidates[position + 1 :]):
            kept.append(constraint)
    return kept


def _is_implied(coarse: EqualCounts, finer: list[EqualCounts]) -> bool:
    if not coarse.are_disjoint:
        return False
    row_of = np.full(int(coarse.rows.max()) + 1, -1)
    row_of[coarse.rows] = np.arange(len(coarse.rows))[:, None]
    covered = np.zeros(len(row_of), bool)
    for fine in finer:
        rows = fine.rows
        if not fine.are_disjoint or rows.max() >= len(row_of):
            continue
        owners = row_of[rows]
        inside = owners.min() >= 0 and (owners == owners[:, :1]).all()
        if not inside or covered[rows].any():
            continue
        per_row = np.bincount(owners[:, 0], minlength=len(coarse.rows))
        if (per_row == per_row[0]).all():
            covered[rows] = True
    return bool(covered[coarse.rows].all())
