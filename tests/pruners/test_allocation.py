"""Widths by integer programs: the optimum of small problems, and never worse than the threshold."""

from itertools import product

import numpy as np
import pytest
import torch
from pruned_network import IMAGE, Network, conv, counts
from randomised import randomise
from torch import nn

from mmprune.cost import CostError, CostTable
from mmprune.errors import InputError
from mmprune.latency import build_table, building
from mmprune.pruners import allocation
from mmprune.pruners.allocation import allocate
from mmprune.registry import PRUNERS


def worth(values, choice):
    return sum(each[number] for each, number in zip(values, choice, strict=True))


def random_problem(seed, groups, options, limits):
    """Values and costs of chains and triangles of layers, and a third group that meets a pair."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, options + 1, groups)
    values = [np.sort(random.exponential(size=size)).cumsum() for size in sizes]
    widths = [np.sort(random.integers(1, 40, size)) for size in sizes]
    layers = np.triu(random.random((groups, groups)) < 0.5) * random.random((groups, groups))
    shares = random.uniform(0.3, 0.8, limits)

    def use(choices):
        wide = np.stack([own[c] for own, c in zip(widths, choices.T, strict=True)], 1)
        full = np.array([own[-1] for own in widths])
        weights = [layers ** (1 + n) for n in range(limits)]
        cost = [np.einsum('ng,gh,nh->n', wide, w, wide) / (full @ w @ full) for w in weights]
        return np.stack(cost, axis=1) / shares

    return values, use


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('limits', [1, 2])
def test_the_optimum_of_small_problems(seed, limits):
    values, use = random_problem(seed, groups=5, options=5, limits=limits)
    every = np.array(list(product(*(range(len(each)) for each in values))))
    fitting = every[(use(every) <= 1).all(axis=1)]
    best = max(worth(values, choice) for choice in fitting)
    found = allocate(values, use, fitting[0])
    assert (use(found[None]) <= 1).all()
    assert worth(values, found) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize('seed', range(4))
def test_large_problems_come_close_to_the_optimum(seed, monkeypatch):
    """In parts, as problems are that are too large to be solved at once."""
    values, use = random_problem(seed, groups=5, options=10, limits=1)
    every = np.array(list(product(*(range(len(each)) for each in values))))
    fitting = every[(use(every) <= 1).all(axis=1)]
    best = max(worth(values, choice) for choice in fitting)
    monkeypatch.setattr(allocation, '_EXACT', 0)
    monkeypatch.setattr(allocation, '_VARIABLES', 100)
    found = allocate(values, use, fitting[0])
    assert (use(found[None]) <= 1).all()
    assert best * 0.97 <= worth(values, found) <= best * (1 + 1e-5)
    # Of more pairs than a program can have, none; the true cost still counts.
    monkeypatch.setattr(allocation, '_VARIABLES', 1)
    found = allocate(values, use, fitting[0])
    assert (use(found[None]) <= 1).all()
    assert worth(values, found) > 0.8 * best


def test_costs_of_three_groups_at_once_are_looked_at():
    values = [np.arange(4.0), np.arange(4.0), np.arange(4.0)]

    def use(choices):
        return ((choices + 1).prod(axis=1) / 20)[:, None]

    found = allocate(values, use, np.zeros(3, int))
    assert use(found[None]) <= 1
    assert worth(values, found) >= 4  # 2 * 3 * 3 of 20


# -- the pruner --------------------------------------------------------------------------


class Wide(nn.Module):
    """A residual stream, a concatenation, convolutions in groups and a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = conv(3, 16), nn.BatchNorm2d(16)
        self.inside, self.outside = conv(16, 24), conv(24, 16)
        self.left, self.right = conv(16, 12, 1), conv(16, 20)
        self.wide, self.grouped = conv(32, 32), conv(32, 32, groups=4)
        self.fc = nn.Linear(32 * 4, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.outside(self.inside(x).relu())
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        x = nn.functional.adaptive_avg_pool2d(self.grouped(self.wide(x)).relu(), 2).flatten(1)
        return self.head(self.fc(x).relu())


class Drawn:
    """Scores that are drawn, some below 0."""

    def __init__(self, seed, low=0.0):
        self.seed, self.low = seed, low

    def scores(self, group, model):
        random = np.random.default_rng([self.seed, *group.space_id.encode()])
        return random.lognormal(random.normal(), 1, group.num_channels) + self.low


def pruned(network=Wide, seed=0, low=0.0, **options):
    """(kept score, pruner)."""
    torch.manual_seed(0)
    model = randomise(network().double()).eval()
    options = dict(type='ImportancePruner', importance=Drawn(seed, low)) | options
    pruner = PRUNERS.build(options)
    pruner.prepare_from_supernet(model, IMAGE)
    subnet = pruner.prune()
    groups = pruner.channel_groups
    kept = [(pruner._scores(groups[s]) * m.flatten().numpy()).sum() for s, m in subnet.items()]
    return sum(kept), pruner


@pytest.mark.parametrize('low', [0.0, -1.0])
@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize(
    'options',
    [
        dict(budget=dict(macs=0.5)),
        dict(budget=dict(params=0.3), max_removed=0.8),
        dict(budget=dict(macs=0.6, params=0.4), min_channels=4),
        dict(budget=dict(macs=0.6), round_to=4),
    ],
    ids=str,
)
@pytest.mark.parametrize('network', [Wide, Network])
def test_never_worse_than_the_threshold(network, options, seed, low):
    before, _ = pruned(network, seed, low, **options)
    after, pruner = pruned(network, seed, low, allocation='milp', **options)
    assert after >= before - 1e-9 * abs(before)
    ones = {s: torch.ones_like(mask) for s, mask in pruner.channel_spaces.items()}
    cost, full = pruner.cost(), pruner.cost(ones)
    assert all(cost[name] <= limit * full[name] for name, limit in options['budget'].items())
    for space_id, kept in counts(pruner.current_subnet()).items():
        size = pruner.channel_groups[space_id].num_channels
        assert kept >= min(size, options.get('min_channels', 1))
        assert kept >= size * (1 - options.get('max_removed', 0.9))
        assert kept % options.get('round_to', 1) == 0 or kept == size
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok


class Alike:
    """All channels matter as much, but for what says which go first."""

    def scores(self, group, model):
        return 1 + np.arange(group.num_channels) / 1e6


def test_of_what_matters_as_much_the_cheap_stays():
    """The convolutions on all pixels cost most, the linear layer behind the pooling little."""
    options = dict(network=Wide, budget=dict(macs=0.5), importance=Alike())
    before, _ = pruned(**options)
    after, pruner = pruned(allocation='milp', **options)
    assert after > 1.1 * before
    assert counts(pruner.current_subnet())['fc'] == 20


def test_a_budget_of_a_latency_table(tmp_path, monkeypatch):
    monkeypatch.setattr(
        building, '_once', lambda layer, data, _: 1e-9 * (data.numel() + layer(data).numel())
    )
    monkeypatch.setattr(building, 'MOST_ROUNDS', 1)
    model = randomise(Wide().double()).eval()
    ratio = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    ratio.prepare_from_supernet(model, IMAGE)
    plain = ratio.deploy_subnet(model, ratio.export_subnet())
    table = build_table(plain, ratio.supernet, lambda network: network(IMAGE))
    file = tmp_path / 'latency.json'
    table.save(file)
    options = dict(budget=dict(latency=0.7, macs=0.7), latency=str(file))
    before, _ = pruned(**options)
    after, pruner = pruned(allocation='milp', **options)
    assert after >= before
    subnet = pruner.current_subnet()
    pruner.set_max_channel()
    full = pruner.latency(pruner, pruner.current_subnet())
    assert pruner.latency(pruner, subnet) <= 0.7 * full


def test_costs_that_widths_do_not_tell(monkeypatch):
    def refuse(*_):
        raise CostError('depends on which')

    expected, _ = pruned(budget=dict(macs=0.5), allocation='milp', round_to=8)
    monkeypatch.setattr(CostTable, 'batch', refuse)
    found, _ = pruned(budget=dict(macs=0.5), allocation='milp', round_to=8)
    assert found == expected


def test_steps_only_remove():
    _, pruner = pruned(budget=dict(macs=0.3), allocation='milp')
    previous = pruner.prune(0)
    for progress in (0.3, 0.6, 1):
        pruner.importance.seed += 1
        subnet = pruner.prune(progress, regrow=False)
        assert all((subnet[s] <= previous[s]).all() for s in subnet)
        previous = subnet


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ratio=0.5, allocation='best'), "'threshold' or 'milp', not 'best'"),
        (dict(ratio=0.5, allocation='milp'), 'it needs budget, .* found budget=None'),
        (dict(budget=dict(macs=0.5), scope='local', allocation='milp'), "scope='local'"),
        (dict(budget=dict(macs=0.5), score_per='macs', allocation='milp'), "score_per='macs'"),
        (
            dict(budget=dict(latency=0.5), latency=lambda p, s: 1.0, allocation='milp'),
            'give the table',
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        PRUNERS.build(dict(type='ImportancePruner', **options))
