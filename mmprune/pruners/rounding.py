"""Numbers of channels that hardware likes: multiples, in every layer."""

from __future__ import annotations

from math import gcd, lcm

import numpy as np

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray


def select_rounded(
    group: ChannelGroup, scores: np.ndarray, count: int, round_to: int, at_least: int = 1
) -> BoolArray:
    """The valid mask of about ``count`` channels that gives layers multiples of ``round_to``.

    What counts is what every layer has of the group, among its inputs or outputs: half of it
    behind a chunk, a whole head for one channel of a group of heads. It is a multiple, or all that
    the layer had. Of two such widths that are equally far the larger one is taken. All channels
    together are always allowed, so that a group of 12 keeps 8 or 12 of them if rounded to 8,
    and one of 6 keeps all.

    Args:
        group: The group; its constraints are obeyed, too.
        scores: One per channel, (C,).
        count: How many channels to keep.
        round_to: The multiple.
        at_least: No fewer than this many.
    """
    if round_to == 1:
        return group.select(scores, max(count, at_least))
    full = group.num_channels
    alike = group.widths[(group.widths == group.widths[:, :1]).all(axis=1), 0]
    # The fewest channels of which so many times as many are always a multiple.
    step = lcm(*(round_to // gcd(round_to, int(times)) for times in alike))
    allowed = [n for n in range(step, full, step) if n >= at_least] + [full]
    for number in sorted(allowed, key=lambda n: (abs(n - count), -n)):
        mask = group.select(scores, number)
        if mask.all() or (mask.sum() >= at_least and is_rounded(group, mask, round_to)):
            return mask
    return np.ones(full, bool)


def is_rounded(group: ChannelGroup, mask: BoolArray, round_to: int) -> bool:
    """Whether every layer has a multiple of this many of the channels that are kept, or all."""
    kept = group.widths[:, mask].sum(axis=1)
    return bool(((kept % round_to == 0) | (kept == group.widths.sum(axis=1))).all())
