"""Sizes of dims that hold blocks of channels: a block stays as long as some channel of it does."""

import numpy as np

from mmprune.channels.labels import EqualCounts, Size
from mmprune.channels.sizes import Shrinking


def shrinking(sizes, constraints):
    return list(filter(Shrinking(constraints), sizes))


def heads(first, number, width):
    return np.arange(first, first + number * width).reshape(1, number, width)


def test_heads_that_lose_channels_do_not_get_fewer():
    labels = heads(0, 3, 4)
    by_heads = Size('attention', (2, 3, 4), (labels,), 1, True)
    by_dims = Size('attention', (2, 3, 4), (labels,), 2, True)
    constraint = EqualCounts(labels[0], 'cuts the channels into blocks')
    assert shrinking([by_heads, by_dims], [constraint]) == [by_dims]
    # Without the constraint a head may lose all of its channels.
    assert shrinking([by_heads, by_dims], []) == [by_heads, by_dims]
    # Of a constraint with a single row nothing follows.
    assert len(shrinking([by_heads], [EqualCounts(labels[0, :1], 'nothing')])) == 1


def test_a_part_of_more_blocks_is_told_too():
    """Queries, keys and values are constrained together, and looked at one by one."""
    together = heads(0, 9, 4)
    constraint = EqualCounts(together[0], 'cuts the channels into blocks')
    values = Size('attention', (2, 3, 4), (together[:, 6:],), 1, True)
    assert shrinking([values], [constraint]) == []
    halves = Size('attention', (2, 3, 2), (together[:, 6:, :2],), 1, True)
    assert shrinking([halves], [constraint]) == [halves]


def test_whole_heads_get_fewer():
    labels = np.arange(3).reshape(1, 3, 1)
    size = Size('attention', (2, 3, 4), (labels,), 1, True)
    assert shrinking([size], [EqualCounts(labels[0], 'each of one')]) == [size]
