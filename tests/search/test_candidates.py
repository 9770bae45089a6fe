"""Which candidate is best, which nobody beats, which is picked."""

import re

import pytest

from mmprune.errors import InputError
from mmprune.search import Evaluation
from mmprune.search.candidates import Candidates

FULL = {'macs': 1000, 'params': 100}
# (MACs, metric): a front of 0, 2, 3 and 5, which bends at 2; 4 is beaten, and 6 was not measured.
POINTS = [(100, 10.0), (900, 93.0), (300, 80.0), (500, 90.0), (700, 85.0), (800, 95.0), (50, None)]


def evaluations(name: str = 'accuracy/top1', sign: float = 1.0) -> list[Evaluation]:
    return [
        Evaluation(
            index=number,
            origin='',
            key=str(number),
            macs=macs,
            params=macs // 10,
            metric=None if metric is None else sign * metric,
            channels={},
            latency=macs / 100,
            metrics={} if metric is None else {name: sign * metric},
        )
        for number, (macs, metric) in enumerate(POINTS)
    ]


@pytest.mark.parametrize(('name', 'sign'), [('accuracy/top1', 1.0), ('val_loss', -1.0)])
def test_the_front_and_where_it_bends(name: str, sign: float) -> None:
    found = Candidates.of(evaluations(name, sign), FULL)
    assert found.metric == name
    assert [each.index for each in found.front()] == [0, 2, 3, 5]
    assert found.pick('knee').index == 2
    assert found.pick('best').index == 5
    assert Candidates.of(evaluations(name, sign)[4:], FULL).pick('knee').index == 5


@pytest.mark.parametrize(
    ('how', 'index'),
    [
        ('4', 4),
        ('best-under:macs=0.5', 3),
        ('best-under:macs=499', 2),
        ('best-under:params=0.75', 3),
        ('best-under:macs=0.9,latency=4', 2),
    ],
)
def test_by_a_number_or_under_a_budget(how: str, index: int) -> None:
    assert Candidates.of(evaluations(), FULL).pick(how).index == index


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('7', 'no candidate 7 was measured; the last one is 5'),
        ('6', 'no candidate 6 was measured'),
        ('elbow', "'elbow' is no way to pick a candidate: give 'knee', 'best', 'best-under:"),
        ('best-under:macs', "'macs' is no budget"),
        ('best-under:flops=0.5', 'some of the keys macs, params, latency'),
        ('best-under:macs=0.09', 'none of 6 candidates is within 90 MACs; the cheapest has 100'),
    ],
)
def test_what_cannot_be_picked(how: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Candidates.of(evaluations(), FULL).pick(how)


def test_nothing_was_measured() -> None:
    with pytest.raises(InputError, match='nothing was measured in any of 1 candidates'):
        Candidates.of(evaluations()[6:], FULL)


def test_a_config_says_what_counts() -> None:
    assert Candidates.of(evaluations('score'), FULL, rule='less').pick('best').index == 0
    assert Candidates.of(evaluations(), FULL, metric='accuracy/top5').metric == 'accuracy/top5'
