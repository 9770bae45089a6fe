"""Valid masks: random ones, against every mask that there is."""

import itertools

import numpy as np
import pytest
import torch
from randomised import randomise
from torch import nn

from mmprune.channels import EqualBlocks
from mmprune.channels.constraints import Shrinking, round_half_up
from mmprune.channels.constraints import select as select_shrinking
from mmprune.registry import PRUNERS


def select(scores, count, constraints):
    """``select`` for constraints that are used once."""
    return select_shrinking(scores, count, Shrinking.of(len(scores), constraints))


def blocks(*rows):
    return EqualBlocks(np.array(rows), 'for a test')


def consecutive(channels, count):
    return EqualBlocks(np.arange(channels).reshape(count, -1), f'{count} blocks')


def strided(channels, count):
    return EqualBlocks(np.arange(channels).reshape(-1, count).T.copy(), f'{count} strides')


def all_masks(size, constraints):
    """Every valid mask of a group, by trying all."""
    masks = (np.array(bits) for bits in itertools.product([False, True], repeat=size))
    return [m for m in masks if m.any() and all(c.holds(m) for c in constraints)]


# -- what holds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('mask', 'holds'),
    [('110110', True), ('110101', True), ('110100', False), ('000000', False), ('111111', True)],
)
def test_blocks_keep_equally_many(mask, holds):
    mask = np.array([bit == '1' for bit in mask])
    assert consecutive(6, 2).holds(mask) == holds
    assert consecutive(6, 2).counts(mask).tolist() == [mask[:3].sum(), mask[3:].sum()]


def test_rounding_goes_up_at_halves():
    values = (0.49, 0.5, 1.5, 2.5, 2.499)
    assert [round_half_up(value) for value in values] == [0, 1, 2, 3, 2]


# -- choosing without constraints ------------------------------------------------------


def test_without_constraints_the_highest_scores_stay():
    random = np.random.default_rng(0)
    for _ in range(100):
        size = random.integers(1, 20)
        scores, count = random.normal(size=size), random.integers(-1, size + 3)
        mask = select(scores, count, ())
        assert mask.dtype == bool
        assert mask.sum() == np.clip(count, 1, size)
        assert mask.all() or scores[mask].min() > scores[~mask].max()


def test_ties_go_to_the_first_channels():
    assert select(np.zeros(5), 3, ()).tolist() == [True, True, True, False, False]
    assert select(np.array([1.0, 2, 2, 2, 1]), 2, ()).tolist() == [False, True, True, False, False]
    halves = select(np.zeros(8), 4, (consecutive(8, 2),))
    assert halves.tolist() == [True, True, False, False] * 2


# -- choosing with constraints ---------------------------------------------------------

CROSSING = {
    'one partition': lambda: (consecutive(8, 2),),
    'strided': lambda: (strided(8, 4),),
    'two partitions that cross': lambda: (consecutive(8, 2), strided(8, 2)),
    'four and two': lambda: (consecutive(8, 4), strided(8, 2)),
    'a norm in a grouped convolution': lambda: (consecutive(12, 2), consecutive(12, 3)),
    'nested': lambda: (consecutive(8, 2), consecutive(8, 4)),
    'blocks that overlap': lambda: (blocks([0, 1, 2, 3], [2, 3, 4, 5]),),
    'a part only': lambda: (blocks([0, 1], [4, 5]),),
    'apart': lambda: (blocks([0, 1], [2, 3]), blocks([4, 5, 6], [7, 8, 9])),
    'apart, and some are free': lambda: (blocks([0, 1], [2, 3]), blocks([5, 6], [7, 8])),
    'three that cross': lambda: (consecutive(8, 2), strided(8, 2), blocks([0, 5], [1, 4])),
}


def size_of(constraints):
    return 1 + max(int(c.blocks.max()) for c in constraints)


@pytest.mark.parametrize('case', CROSSING)
def test_choices_are_valid_for_every_count(case):
    constraints = CROSSING[case]()
    random, size = np.random.default_rng(1), size_of(constraints)
    for count in range(1, size + 1):
        for _ in range(4):
            mask = select(random.normal(size=size), count, constraints)
            assert all(constraint.holds(mask) for constraint in constraints)
    assert select(random.normal(size=size), size, constraints).all()


# A program chooses where blocks cross; blocks that are apart are filled one by one.
PROGRAMS = [case for case in CROSSING if 'cross' in case or case in ('nested', 'four and two')]
PROGRAMS += ['a norm in a grouped convolution', 'blocks that overlap']


@pytest.mark.parametrize('case', PROGRAMS)
def test_crossing_constraints_are_met_as_well_as_they_can_be(case):
    """Closest to the count first, then the highest sum of scores: as the best of all masks."""
    constraints = CROSSING[case]()
    random, size = np.random.default_rng(2), size_of(constraints)
    valid = all_masks(size, constraints)
    for _ in range(12):
        scores, count = random.random(size), int(random.integers(1, size + 1))
        mask = select(scores, count, constraints)
        gains = scores - scores.min()
        best = min(valid, key=lambda m: (abs(m.sum() - count), -gains[m].sum()))
        assert abs(mask.sum() - count) == abs(best.sum() - count)
        np.testing.assert_allclose(gains[mask].sum(), gains[best].sum(), rtol=1e-5)


@pytest.mark.parametrize(('channels', 'count'), [(8, 2), (12, 3), (12, 6), (9, 9)])
def test_a_partition_keeps_the_best_of_every_block(channels, count):
    random = np.random.default_rng(3)
    constraint = consecutive(channels, count)
    for wanted in range(1, channels + 1):
        scores = random.random(channels)
        mask = select(scores, wanted, (constraint,))
        each = max(1, round_half_up(wanted / count))
        assert (constraint.counts(mask) == each).all()
        for row in constraint.blocks:
            best = set(row[np.argsort(-scores[row])[:each]].tolist())
            assert set(row[mask[row]].tolist()) == best


def test_more_is_never_less():
    """Sampled subnets lie between the smallest and the largest: counts grow with what is asked."""
    random = np.random.default_rng(4)
    for make in CROSSING.values():
        constraints = make()
        size = size_of(constraints)
        scores = random.random(size)
        kept = [int(select(scores, n, constraints).sum()) for n in range(1, size + 1)]
        assert kept == sorted(kept)
        assert kept[-1] == size


@pytest.mark.parametrize('constraints', [(), (consecutive(8, 2), strided(8, 2))])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_scores_that_are_no_numbers_are_refused(value, constraints):
    scores = np.arange(8.0)
    scores[[2, 5]] = value
    with pytest.raises(ValueError, match='2 of 8 channel scores are NaN or inf'):
        select(scores, 4, constraints)


@pytest.mark.parametrize('scale', [1e-30, 1e30, 0.0])
def test_the_scale_of_scores_does_not_matter(scale):
    random = np.random.default_rng(5)
    for make in CROSSING.values():
        constraints = make()
        size = size_of(constraints)
        scores = random.random(size)
        mask = select(scores * scale, size // 2, constraints)
        assert all(constraint.holds(mask) for constraint in constraints)
        if scale:
            assert (mask == select(scores, size // 2, constraints)).all()


# -- in networks -----------------------------------------------------------------------


class Crossing(nn.Module):
    """The same channels in the blocks of a GroupNorm, of a grouped convolution, of a shuffle."""

    def __init__(self, groups, norm_groups, shuffle):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 1), nn.GroupNorm(norm_groups, 12)
        self.b, self.head = nn.Conv2d(12, 12, 1, groups=groups), nn.Conv2d(12, 4, 1)
        self.shuffle = shuffle

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        if self.shuffle > 1:
            n, c, h, w = x.shape
            x = x.reshape(n, self.shuffle, c // self.shuffle, h, w).transpose(1, 2)
            x = x.reshape(n, c, h, w)
        return self.head(self.b(x))


@pytest.mark.parametrize(
    ('groups', 'norm_groups', 'shuffle'),
    [(2, 3, 1), (3, 2, 1), (2, 2, 1), (4, 3, 1), (2, 3, 2), (3, 2, 3), (4, 6, 2)],
)
def test_networks_whose_constraints_cross_are_exact(groups, norm_groups, shuffle):
    model = randomise(Crossing(groups, norm_groups, shuffle).double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.3, 0.5, 0.75, 1.0]))
    data = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pruner.prepare_from_supernet(model, data)
    assert list(pruner.channel_spaces) == ['a', 'b']
    for _ in range(4):
        subnet = pruner.sample_subnet()
        report = pruner.verify_subnet(model, subnet)
        assert report.ok, report
        deployed = pruner.deploy_subnet(model, _config(pruner, subnet))
        assert deployed.norm.num_groups == norm_groups
        assert deployed.b.groups == groups
    for _ in range(4):
        report = pruner.verify_subnet(model)
        assert report.ok, report


def _config(pruner, subnet):
    pruner.set_subnet(subnet)
    return pruner.export_subnet()
