"""Numbers of channels that hardware likes: multiples."""

from __future__ import annotations

import numpy as np

from mmprune.channels import ChannelGroup
from mmprune.channels.constraints import BoolArray
from mmprune.errors import InputError


def check_round_to(round_to: int) -> int:
    """Return a multiple that widths may be rounded to.

    Raises:
        InputError: It is no whole number above 0.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise InputError(f'round_to must be a whole number above 0, not {round_to!r}')
    return round_to


def select_rounded(
    group: ChannelGroup, scores: np.ndarray, count: int, round_to: int, at_least: int = 1
) -> BoolArray:
    """The valid mask of about ``count`` channels whose number is a multiple of ``round_to``.

    Of two multiples that are equally far the larger one is taken. All channels together are
    always allowed, so that a group of 12 keeps 8 or 12 of them if rounded to 8, and one of
    6 keeps all.

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
    allowed = [n for n in range(round_to, full, round_to) if n >= at_least] + [full]
    for number in sorted(allowed, key=lambda n: (abs(n - count), -n)):
        mask = group.select(scores, number)
        kept = int(mask.sum())
        if kept == full or (kept % round_to == 0 and kept >= at_least):
            return mask
    return np.ones(full, bool)
