"""The order in which channels go, against a plain loop and by hand."""

import numpy as np
import pytest

from mmprune.channels import EqualBlocks
from mmprune.channels.groups import ChannelGroup
from mmprune.errors import InputError
from mmprune.pruners.patterns import checked_ratios, first_patterns, matches
from mmprune.pruners.removal import RankedGroup, RemovalOrder
from mmprune.pruners.rounding import select_rounded


def ranked(space_id, scores, pool=None, **kwargs):
    return RankedGroup(space_id, np.array(scores, float), pool, **kwargs)


def widths(order):
    """Widths after every number of removals."""
    return [tuple(order.counts(n).values()) for n in range(len(order) + 1)]


def test_one_pool_goes_by_score():
    order = RemovalOrder([ranked('a', [3, 1, 5]), ranked('b', [2, 4])])
    assert widths(order) == [(3, 2), (2, 2), (2, 1), (1, 1)]  # 1, 2, 3; then the floors


def test_a_pool_per_group_loses_the_same_share_everywhere():
    order = RemovalOrder([ranked('a', [9, 9, 9, 9], 'a'), ranked('b', [1, 2], 'b')])
    # Places of the removals: 1/8, 3/8, 5/8, 7/8 and 1/4, 3/4.
    assert widths(order) == [(4, 2), (3, 2), (3, 1), (2, 1), (1, 1)]


def test_floors_and_what_is_gone():
    order = RemovalOrder(
        [ranked('a', [3, 1, 5, 0], floor=2, gone=1), ranked('b', [2, 4, 9], floor=1, gone=2)]
    )
    assert order.num_gone == 3
    assert order.counts(3) == {'a': 3, 'b': 1}
    assert order.counts(len(order)) == {'a': 2, 'b': 1}


def test_gone_below_the_floor_stays_gone():
    order = RemovalOrder([ranked('a', [1, 2, 3, 4], floor=3, gone=2)])
    assert order.counts(order.num_gone) == order.counts(len(order)) == {'a': 2}


@pytest.mark.parametrize('seed', range(5))
def test_against_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    groups = [
        ranked(str(i), random.integers(0, 9, size), pool=i % 2, floor=int(random.integers(1, size)))
        for i, size in enumerate(random.integers(2, 9, 6))
    ]
    # Every channel with its place in the pool, removed in order of the share of its pool.
    channels = []
    for pool in (0, 1):
        own = [
            (score, int(g.space_id), place)
            for g in groups
            if g.pool == pool
            for place, score in enumerate(np.sort(g.scores))
        ]
        own.sort()
        channels += [((i + 0.5) / len(own), number) for i, (_, number, _) in enumerate(own)]
    channels.sort(key=lambda c: c[0])
    kept = {g.space_id: len(g.scores) for g in groups}
    expected = [dict(kept)]
    for _, number in channels:
        if kept[str(number)] > groups[number].floor:
            kept[str(number)] -= 1
            expected.append(dict(kept))
    order = RemovalOrder(groups)
    assert len(order) == len(expected) - 1
    totals = [sum(order.counts(n).values()) for n in range(len(order) + 1)]
    assert totals == [sum(counts.values()) for counts in expected]
    assert order.counts(len(order)) == expected[-1]
    # Two pools may take turns in another order at equal shares.
    same = [order.counts(n) == counts for n, counts in enumerate(expected)]
    assert sum(same) >= len(same) * 0.7


def test_shares_of_pools():
    order = RemovalOrder(
        [ranked('a', [3, 1, 5, 7], 0), ranked('b', [2, 4], 0), ranked('c', [1, 2, 3, 4], 1)]
    )
    found = order.counts_of_shares({0: 0.5, 1: 0.75}.__getitem__)
    assert found == {'a': 2, 'b': 1, 'c': 3}  # 1, 2 and 3 of six; 1 of four


def test_a_floor_wins_over_a_share(capsys):
    order = RemovalOrder([ranked('a', [3, 1], floor=2), ranked('b', [2, 4])])
    assert order.counts_of_shares(lambda pool: 0.5) == {'a': 2, 'b': 1}
    said = 'A ratio of 0.5 leaves 2 of the 4 channels of 2 groups (a first), but 3 must stay'
    assert said in capsys.readouterr().out


def test_no_groups():
    order = RemovalOrder([])
    assert len(order) == 0
    assert order.counts(0) == {}
    assert order.counts_of_shares(lambda pool: 0.5) == {}


# -- multiples ---------------------------------------------------------------------------


def group(size, constraints=()):
    return ChannelGroup('g', np.arange(size), (), (), (), tuple(constraints), '')


@pytest.mark.parametrize(
    ('size', 'count', 'round_to', 'kept'),
    [
        (32, 15, 8, 16),
        (32, 12, 8, 16),  # of two as far, the wider
        (32, 11, 8, 8),
        (32, 1, 8, 8),
        (12, 9, 8, 8),
        (12, 11, 8, 12),
        (6, 1, 8, 6),
        (7, 3, 1, 3),
        (9, 4, 3, 3),
    ],
)
def test_a_multiple_or_all(size, count, round_to, kept):
    scores = np.random.default_rng(0).random(size)
    mask = select_rounded(group(size), scores, count, round_to)
    assert mask.sum() == kept
    if kept < size:
        assert scores[mask].min() > scores[~mask].max()


def test_a_multiple_that_is_not_below_a_floor():
    assert select_rounded(group(32), np.arange(32.0), 11, 8, at_least=10).sum() == 16
    assert select_rounded(group(32), np.arange(32.0), 3, 1, at_least=10).sum() == 10


@pytest.mark.parametrize('count', range(1, 25))
def test_multiples_under_constraints(count):
    """Three blocks of eight keep equally many: multiples of three, so of six if rounded to 2."""
    blocks = EqualBlocks(np.arange(24).reshape(3, 8), 'three groups')
    scores = np.random.default_rng(count).random(24)
    mask = select_rounded(group(24, [blocks]), scores, count, 2)
    assert blocks.holds(mask)
    assert mask.sum() % 6 == 0
    assert abs(mask.sum() - count) <= 5


# -- patterns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('pattern', 'name', 'expected'),
    [
        ('*', 'backbone.layer1.0.conv1', True),
        ('backbone.layer1.*', 'backbone.layer1.0.conv1', True),
        ('backbone.layer1.*', 'backbone.layer10.0.conv1', False),
        ('*.conv?', 'backbone.layer1.0.conv1', True),
        ('conv1', 'backbone.conv1', False),
        (r're:.*\.layer[12]\..*', 'backbone.layer2.0.conv1', True),
        (r're:layer[12]', 'backbone.layer2.0.conv1', False),
    ],
)
def test_patterns(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_the_first_pattern_counts():
    groups = {
        name: ChannelGroup(name, np.arange(2), layers, (), (), (), '')
        for name, layers in {'a': ('a', 'norm'), 'b': ('b', 'other'), 'c': ('c',)}.items()
    }
    found = first_patterns({'norm': 1, '[ab]': 1}, groups)
    assert found == {'a': 'norm', 'b': '[ab]', 'c': None}
    with pytest.raises(InputError, match=r"'d\*' matches no layer of the 3 .* are a, b, c"):
        first_patterns({'*': 1, 'd*': 1}, groups)


@pytest.mark.parametrize(
    ('ratio', 'message'),
    [
        (0, 'ratio, the share of channels to keep: expected .* a number above 0 up to 1, found 0'),
        (1.5, 'found 1.5'),
        (True, 'found True'),
        ('half', 'half: cannot be read as ratios'),
        ({}, 'ratio has no patterns'),
        ({'*': 0}, r'\*: expected a number above 0 up to 1, found 0'),
        ({'re:(': 0.5}, r"'re:\(' is no regular expression"),
        ({3: 0.5}, r'\[3\]: expected a text, found 3'),
        (0.05, 'keeping 0.05 removes 0.95 of the channels, more than max_removed=0.9'),
    ],
)
def test_ratios_that_make_no_sense(ratio, message):
    with pytest.raises(InputError, match=message):
        checked_ratios(ratio, 0.9)
