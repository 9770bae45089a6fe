"""The search for the widest subnet within a budget, on costs that can be worked out."""

import pytest

from mmprune.errors import InputError
from mmprune.pruners.budget import Limits, exchange, fewest_removals, use_up

MOST = {'a': 10, 'b': 10}


def costs_of(counts):
    """A channel of a costs 7, one of b 3."""
    return {'macs': 7 * counts['a'] + 3 * counts['b']}


def wider(counts, name):
    return {**counts, name: counts[name] + 1} if counts[name] < MOST[name] else None


def narrower(counts, name):
    return {**counts, name: counts[name] - 1} if counts[name] > 1 else None


def limits(macs):
    return Limits({'macs': macs}, {'macs': 100})


def test_limits_are_shares_or_numbers_and_reached_step_by_step():
    full = {'macs': 200, 'params': 1000}
    assert Limits.of(dict(macs=0.5, params=300), full).limits == {'macs': 100, 'params': 300}
    assert Limits.of(dict(macs=0.5), full, progress=0.25).limits == {'macs': 175}
    assert Limits.of(dict(macs=5000), full).limits == {'macs': 200}


@pytest.mark.parametrize('budget', [100, 77, 50, 10])
def test_the_fewest_removals(budget):
    looked = []

    def after(removals):
        looked.append(removals)
        return {'macs': 100 - removals}

    found = fewest_removals(limits(budget), 0, 90, after, 'floors')
    assert found == 100 - budget
    assert len(looked) <= 9
    with pytest.raises(
        InputError, match=r'as floors allow, the network costs 10 of at most 9 MACs'
    ):
        fewest_removals(limits(9), 0, 90, after, 'floors')


def test_what_is_made_in_any_case_counts():
    assert fewest_removals(limits(95), 30, 90, lambda n: {'macs': 100 - n}, '') == 30


def test_channels_come_back_while_they_fit():
    start = {'a': 5, 'b': 5}  # 50
    assert use_up(limits(59), start, 'abab', wider, costs_of) == {'a': 6, 'b': 5}
    assert use_up(limits(59), start, 'bbbb', wider, costs_of) == {'a': 5, 'b': 8}
    assert use_up(limits(52), start, 'abab', wider, costs_of) == start
    assert use_up(limits(1000), start, 'b' * 20, wider, costs_of) == {'a': 5, 'b': 10}


@pytest.mark.parametrize(
    ('budget', 'room', 'expected'),
    [
        (52, 5, {'a': 4, 'b': 8}),  # one of a for three of b: 52
        (52, 1, {'a': 5, 'b': 5}),  # not so far
        (51, 5, {'a': 5, 'b': 5}),  # two of b for one of a are two steps
        (50, 5, {'a': 5, 'b': 5}),
    ],
)
def test_channels_are_exchanged(budget, room, expected):
    start = {'a': 5, 'b': 5}
    found = exchange(limits(budget), start, 0.01, (narrower, wider), costs_of, dict(a=room, b=room))
    assert found == expected


def test_a_step_larger_than_the_room_is_made_once():
    def in_fours(sign):
        def move(counts, name):
            moved = counts[name] + 4 * sign
            return {**counts, name: moved} if 1 <= moved <= 40 else None

        return move

    steps = in_fours(-1), in_fours(1)
    start = {'a': 20, 'b': 20}  # 200
    # One of a's fours (28) for b's (12), but not for two or three of them.
    found = exchange(limits(209), start, 0.01, steps, costs_of, dict(a=1, b=1))
    assert found == start
    found = exchange(limits(209), start, 0.01, steps, costs_of, dict(a=1, b=12))
    assert costs_of(found)['macs'] == 208
