"""ImportancePruner: ratios, scopes, floors, multiples, budgets, and that subnets stay exact."""

import numpy as np
import pytest
import torch
from pruned_network import IMAGE, Network, conv, counts, kept
from randomised import randomise
from torch import nn

from mmprune.errors import InputError
from mmprune.latency import build_table, building
from mmprune.pruners import ImportancePruner
from mmprune.registry import IMPORTANCE, PRUNERS


def prepared(model=None, data=IMAGE, **options):
    model = randomise((Network() if model is None else model).double()).eval()
    pruner = PRUNERS.build(dict(type='ImportancePruner') | options)
    pruner.prepare_from_supernet(model, data)
    return model, pruner


class Given:
    """Scores that are written down; other groups count up."""

    def __init__(self, **scores):
        self.given = scores

    def scores(self, group, model):
        own = self.given.get(group.space_id, range(1, group.num_channels + 1))
        return np.array(list(own), dtype=np.float64)


class Chain(nn.Module):
    """Four groups of 8 channels without constraints, of which b and c have weights alike."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.d):
            x = layer(x).relu()
        return self.head(x)


SCORES = dict(
    a=[10, 11, 12, 13, 14, 15, 16, 17],
    b=[1, 2, 3, 4, 5, 6, 7, 8],
    c=[30, 31, 32, 33, 34, 35, 36, 37],
    d=[0.5, 9, 40, 41, 42, 43, 44, 45],
)


def chain(**options):
    return prepared(Chain(), importance=Given(**SCORES), **options)[1]


# -- ratios and scopes -------------------------------------------------------------------


def test_local_keeps_the_same_share_everywhere():
    pruner = chain(ratio=0.5, scope='local')
    subnet = pruner.prune()
    assert counts(subnet) == {'a': 4, 'b': 4, 'c': 4, 'd': 4}
    assert kept(subnet)['b'] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert kept(pruner.current_subnet()) == kept(subnet)
    ratio = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0], importance=Given(**SCORES)))
    ratio.prepare_from_supernet(Chain().double(), IMAGE)
    assert kept(ratio.subnet_of_ratio(0.5)) == kept(subnet)


def test_global_removes_the_lowest_scores_of_all():
    """Sixteen of 32 go: 0.5, all of b but one channel, 9, and 10 to 16."""
    pruner = chain(ratio=0.5, max_removed=1.0)
    assert counts(pruner.prune()) == {'a': 1, 'b': 1, 'c': 8, 'd': 6}


def test_a_few_go_at_a_time_the_lowest_scores_first():
    """0.5, 1, 2 go; then 3 to 6; then all that the ratio asks for."""
    pruner = chain(ratio=0.5, max_removed=1.0)
    assert not pruner.remove(3)
    assert counts(pruner.current_subnet()) == {'a': 8, 'b': 6, 'c': 8, 'd': 7}
    assert not pruner.remove(4)
    assert kept(pruner.current_subnet())['b'] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert pruner.remove(9)
    assert counts(pruner.current_subnet()) == {'a': 1, 'b': 1, 'c': 8, 'd': 6}
    assert pruner.remove(1)
    assert counts(pruner.current_subnet()) == {'a': 1, 'b': 1, 'c': 8, 'd': 6}


def test_as_few_go_at_a_time_as_can():
    """A channel of each of the four groups of the norm."""
    network = nn.Sequential(conv(3, 16), nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 1))
    _, pruner = prepared(network, ratio=0.25)
    widths = []
    while not pruner.remove(1):
        widths.append(counts(pruner.current_subnet())['0'])
    assert widths == [12, 8]
    assert counts(pruner.current_subnet()) == {'0': 4}


class Stages(nn.Module):
    """Two blocks of one structure and different sizes, and a stream that both are added to."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.first, self.last = conv(8, 6), conv(6, 8)
        self.wide, self.back = conv(8, 12, 1), conv(12, 8, 1)
        self.deep, self.down = conv(8, 10), conv(10, 8)
        self.depthwise = conv(10, 10, groups=10)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.last(self.first(x).relu())
        x = x + self.back(self.wide(x).relu())
        return self.head(x + self.down(self.depthwise(self.deep(x)).relu()))


def test_groups_of_one_structure_are_compared():
    """Nine of first and wide go, whatever their sizes; the others lose half each."""
    given = Given(first=range(100, 106), wide=range(1, 13))
    _, pruner = prepared(Stages(), ratio=0.5, scope='isomorphic', importance=given, max_removed=1.0)
    assert counts(pruner.prune()) == {'stem': 4, 'first': 6, 'wide': 3, 'deep': 5}


def test_scores_of_one_structure_are_made_comparable():
    """Those of wide are larger by its size alone: divided by their means, both halve."""
    options = dict(ratio=0.5, scope='isomorphic', max_removed=1.0)
    model, pruner = prepared(Stages(), importance='L1', **options)
    with torch.no_grad():
        for layer, size in ((model.first, 1.0), (model.wide, 1000.0)):
            layer.weight.copy_(size * torch.arange(1, len(layer.weight) + 1).view(-1, 1, 1, 1))
            layer.bias.zero_()
        for layer in (model.last, model.back):
            layer.weight.zero_()
    assert counts(pruner.prune()) == {'stem': 4, 'first': 3, 'wide': 6, 'deep': 5}
    _, raw = prepared(Stages(), importance=dict(type='L1Importance', normalise='none'), **options)
    raw.supernet.model.load_state_dict(model.state_dict())
    assert counts(raw.prune()) == {'stem': 4, 'first': 1, 'wide': 8, 'deep': 5}


@pytest.mark.parametrize('column', ['macs', 'params', 'activations'])
def test_scores_per_what_a_channel_saves(column):
    """A channel's score is divided by what the network costs less without one of its group."""
    _, pruner = prepared(ratio=0.5, score_per=column, importance=Given())
    full = pruner.cost(columns=[column])[column]
    found = pruner._per_cost(
        {s: pruner._scores(g) for s, g in pruner.supernet.prunable_groups.items()},
        np.ones_like(pruner.supernet.alive),
        column,
    )
    # The grouped convolution loses a channel of each of its four norm groups.
    for space_id, fewer in {'stem': 2, 'grouped': 4, 'wide': 1, 'fc': 1}.items():
        masks = {s: torch.ones_like(m) for s, m in pruner.channel_spaces.items()}
        group = pruner.channel_groups[space_id]
        scores = np.arange(1, group.num_channels + 1)
        mask = group.select(scores, group.num_channels - fewer)
        assert mask.sum() == group.num_channels - fewer
        masks[space_id].view(-1)[torch.from_numpy(~mask)] = 0
        saved = (full - pruner.cost(masks, [column])[column]) / fewer
        np.testing.assert_allclose(found[space_id], scores / saved, rtol=1e-12)


def test_the_most_expensive_of_equal_channels_go_first():
    given = dict.fromkeys('abcd', [1.0] * 8)
    _, pruner = prepared(
        Chain(), importance=Given(**given), ratio=0.75, score_per='params', max_removed=1.0
    )
    # A channel of b or c has 2 * 9 * 8 weights and a bias; of a 9 * 11, of d 9 * 8 + 2.
    assert counts(pruner.prune()) == {'a': 8, 'b': 1, 'c': 7, 'd': 8}


def test_ratios_by_pattern():
    pruner = chain(ratio={'a': 0.75, 're:[bc]': 0.5}, max_removed=1.0)
    # Within a pattern the scope counts; what none matches stays whole.
    assert counts(pruner.prune()) == {'a': 6, 'b': 1, 'c': 7, 'd': 8}
    pruner = chain(ratio={'a': 0.75, '[ab]': 0.5}, scope='local')
    assert counts(pruner.prune()) == {'a': 6, 'b': 4, 'c': 8, 'd': 8}


def test_a_pattern_may_name_a_layer_inside_a_group():
    """Seven of the stem's 14 channels are rounded to four in both groups of a convolution."""
    _, pruner = prepared(ratio={'stem_norm': 0.5}, scope='local')
    assert counts(pruner.prune()) == {'stem': 8, 'grouped': 12, 'wide': 16, 'fc': 10}


@pytest.mark.parametrize(
    'floor', [dict(min_channels=3, max_removed=1.0), dict(max_removed=0.625)], ids=str
)
def test_floors(floor):
    """As above, but a and b keep three; instead 30 to 33 of c go."""
    pruner = chain(ratio=0.5, **floor)
    assert counts(pruner.prune()) == {'a': 3, 'b': 3, 'c': 4, 'd': 6}


def test_no_layer_collapses_by_default():
    _, pruner = prepared(Wide(), ratio=0.12)
    found = counts(pruner.prune())
    full = {s: m.numel() for s, m in pruner.channel_spaces.items()}
    assert all(n >= 0.1 * full[s] for s, n in found.items())
    assert min(n / full[s] for s, n in found.items()) < 0.12


# -- multiples ---------------------------------------------------------------------------


@pytest.mark.parametrize('scope', ['global', 'isomorphic', 'local'])
@pytest.mark.parametrize('ratio', [0.2, 0.5, 0.8])
def test_widths_are_multiples(ratio, scope):
    _, pruner = prepared(ratio=ratio, scope=scope, round_to=4)
    full = {s: m.numel() for s, m in pruner.channel_spaces.items()}
    for subnet in (pruner.prune(), pruner.sample_subnet(), pruner.pruned_subnet(0.3)):
        assert all(n % 4 == 0 or n == full[s] for s, n in counts(subnet).items())
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok


def test_ratio_pruner_rounds_too():
    for round_to in (2, 3, 8):
        pruner = PRUNERS.build(
            dict(type='RatioPruner', ratios=[0.25, 0.5, 0.75], round_to=round_to)
        )
        model = randomise(Network().double()).eval()
        pruner.prepare_from_supernet(model, IMAGE)
        full = {s: m.numel() for s, m in pruner.channel_spaces.items()}
        bins = {
            s: b * torch.tensor([1.0, 1, 0, 0]) for s, b in pruner.get_max_channel_bins(4).items()
        }
        for subnet in (
            pruner.sample_subnet(),
            pruner.subnet_of_ratio(0.3),
            pruner.bins_to_subnet(bins, 4),
        ):
            assert all(n % round_to == 0 or n == full[s] for s, n in counts(subnet).items())
            assert pruner.verify_subnet(model, subnet).ok


# -- budgets -----------------------------------------------------------------------------


class Wide(nn.Module):
    """Residual blocks and a head, wide enough for budgets to be met closely."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = conv(3, 32), nn.BatchNorm2d(32)
        self.inside, self.outside = conv(32, 48), conv(48, 32)
        self.down, self.grouped = conv(32, 64), conv(64, 64, groups=4)
        self.fc, self.head = nn.Linear(64 * 4, 40), nn.Linear(40, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.outside(self.inside(x).relu())
        x = self.grouped(self.down(x).relu()).relu()
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.fc(x).relu())


def share(pruner, cost):
    now, full = pruner.cost(), pruner.cost(torch_ones(pruner))
    return now[cost] / full[cost]


def torch_ones(pruner):
    return {s: torch.ones_like(mask) for s, mask in pruner.channel_spaces.items()}


@pytest.mark.parametrize('scope', ['global', 'isomorphic', 'local'])
@pytest.mark.parametrize(
    'budget', [dict(macs=0.5), dict(macs=0.2), dict(params=0.5), dict(params=0.15)], ids=str
)
def test_a_budget_is_met_within_one_percent(budget, scope):
    model, pruner = prepared(
        Wide(), budget=budget, scope=scope, importance=dict(type='L1Importance', normalise='mean')
    )
    subnet = pruner.prune()
    ((name, limit),) = budget.items()
    assert 0.99 * limit <= share(pruner, name) <= limit
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    assert sum(p.numel() for p in small.parameters()) == pruner.cost()['params']
    assert pruner.verify_subnet(model, subnet).ok


def test_several_limits_at_once():
    for budget, tight in (
        (dict(macs=0.5, params=0.9), 'macs'),
        (dict(macs=0.9, params=0.3), 'params'),
    ):
        _, pruner = prepared(Wide(), budget=budget, scope='local')
        pruner.prune()
        shares = {name: share(pruner, name) for name in budget}
        assert all(shares[name] <= limit for name, limit in budget.items())
        assert shares[tight] >= 0.99 * budget[tight]


def test_limits_in_numbers():
    _, pruner = prepared(Wide(), budget=dict(params=20_000), scope='local')
    pruner.prune()
    assert 19_800 <= pruner.cost()['params'] <= 20_000


def test_a_budget_with_multiples_and_constraints():
    _, pruner = prepared(Wide(), budget=dict(macs=0.5), scope='local', round_to=8)
    found = counts(pruner.prune())
    assert share(pruner, 'macs') <= 0.5
    assert all(n % 8 == 0 for n in found.values())
    # No group can have eight more.
    for space_id in found:
        if found[space_id] < pruner.channel_groups[space_id].num_channels:
            wider = pruner.subnet_of_counts({**found, space_id: found[space_id] + 8})
            full = pruner.cost(torch_ones(pruner))['macs']
            assert pruner.cost(wider)['macs'] > 0.5 * full


def test_a_budget_that_is_no_limit():
    _, pruner = prepared(Wide(), budget=dict(macs=1.0))
    assert all((mask == 1).all() for mask in pruner.prune().values())
    _, pruner = prepared(Wide(), budget=dict(macs=1e15))
    assert all((mask == 1).all() for mask in pruner.prune().values())


def test_a_latency_that_is_predicted():
    """A time per kept channel, and one that is there anyway."""
    calls = []

    def latency(pruner, subnet):
        assert isinstance(pruner, ImportancePruner)
        calls.append(subnet)
        return 20 + sum(float(mask.sum()) for mask in subnet.values())

    _, pruner = prepared(Wide(), budget=dict(latency=150.0), latency=latency, scope='local')
    subnet = pruner.prune()
    assert 148.5 <= latency(pruner, subnet) <= 150
    assert len(calls) < 30
    _, pruner = prepared(Wide(), budget=dict(latency=0.6, macs=0.3), latency=latency, scope='local')
    subnet = pruner.prune()
    assert latency(pruner, subnet) <= 0.6 * latency(pruner, torch_ones(pruner))
    assert share(pruner, 'macs') <= 0.3


def test_a_latency_from_a_table(tmp_path, monkeypatch):
    """A layer's time is a microsecond for every thousand numbers that it reads and writes."""
    monkeypatch.setattr(
        building, '_once', lambda layer, data, _: 1e-9 * (data.numel() + layer(data).numel())
    )
    monkeypatch.setattr(building, 'MOST_ROUNDS', 1)
    model, pruner = prepared(Wide(), budget=dict(macs=1.0))
    plain = pruner.deploy_subnet(model, pruner.export_subnet())
    file = tmp_path / 'latency.json'
    build_table(plain, pruner.supernet, lambda network: network(IMAGE)).save(file)
    pruner = PRUNERS.build(
        dict(type='ImportancePruner', budget=dict(latency=0.6), latency=str(file), scope='local')
    )
    pruner.prepare_from_supernet(model, IMAGE)
    full = pruner.latency(pruner, pruner.current_subnet())
    assert 0.99 * 0.6 * full <= pruner.latency(pruner, pruner.prune()) <= 0.6 * full


def test_a_budget_below_the_floors_is_refused_with_both_numbers():
    _, pruner = prepared(Wide(), budget=dict(macs=0.02), max_removed=0.5)
    before = kept(pruner.current_subnet())
    with pytest.raises(
        InputError,
        match=r'as narrow as min_channels=1 and max_removed=0\.5 allow, the network costs '
        r'[\d,]+ of at most [\d,]+ MACs \(2\d\.\d\d% of the full [\d,]+\)',
    ):
        pruner.prune()
    assert kept(pruner.current_subnet()) == before


def test_widths_that_come_not_close_are_reported(capsys):
    """Each of four channels is a fourth of everything."""

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)

        def forward(self, x):
            return self.b(self.a(x))

    _, pruner = prepared(Narrow(), budget=dict(macs=0.7))
    assert counts(pruner.prune()) == {'a': 2}
    printed = capsys.readouterr().out
    assert 'No widths come within 1% of the budget: 11,520 of at most 16,128 MACs' in printed
    assert '(50.00% of the full 23,040)' in printed


# -- in steps ----------------------------------------------------------------------------


def test_steps_lead_from_the_full_width_to_the_target():
    _, pruner = prepared(Wide(), budget=dict(macs=0.4), scope='local')
    previous = torch_ones(pruner)
    for progress, limit in ((0, 1.0), (0.25, 0.85), (0.5, 0.7), (1, 0.4)):
        subnet = pruner.prune(progress, regrow=False)
        assert 0.99 * limit <= share(pruner, 'macs') <= limit
        assert all((subnet[s] <= previous[s]).all() for s in subnet)
        previous = subnet


def test_what_is_gone_comes_back_only_if_it_may():
    scores = {'a': [1.0, 2, 3, 4, 5, 6, 7, 8]}
    importance = Given(**scores)
    _, pruner = prepared(Chain(), ratio={'a': 0.5}, importance=importance)
    pruner.prune()
    importance.given['a'] = [8.0, 7, 6, 5, 4, 3, 2, 1]
    assert kept(pruner.pruned_subnet(regrow=False))['a'] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert kept(pruner.pruned_subnet())['a'] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert kept(pruner.current_subnet())['a'] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize('scope', ['global', 'isomorphic', 'local'])
def test_steps_under_constraints_only_remove(scope):
    model, pruner = prepared(ratio=0.3, scope=scope, round_to=2)
    previous = pruner.prune(0)
    for progress in (0.2, 0.5, 0.6, 0.9, 1):
        randomise(model, seed=int(progress * 10))
        subnet = pruner.prune(progress, regrow=False)
        assert all((subnet[s] <= previous[s]).all() for s in subnet)
        previous = subnet


# -- the other methods of a pruner -------------------------------------------------------


def test_the_space_reaches_from_the_pruned_subnet_to_the_full_width():
    _, pruner = prepared(Wide(), budget=dict(macs=0.4), scope='local')
    smallest = counts(pruner.pruned_subnet())
    pruner.set_min_channel()
    assert counts(pruner.current_subnet()) == smallest
    drawn = [counts(pruner.sample_subnet()) for _ in range(40)]
    full = {s: m.numel() for s, m in pruner.channel_spaces.items()}
    for space_id, least in smallest.items():
        found = [d[space_id] for d in drawn]
        assert min(found) >= least
        assert max(found) <= full[space_id]
        assert len(set(found)) > 5 or full[space_id] - least < 5
    assert counts(pruner.current_subnet()) == smallest
    pruner.set_max_channel()
    assert counts(pruner.current_subnet()) == full


def test_the_smallest_widths_are_found_once():
    """While weights change in training, the space of widths stays."""
    model, pruner = prepared(Wide(), budget=dict(macs=0.4))
    pruner.set_min_channel()
    before = pruner.current_subnet()
    randomise(model, seed=7)
    with torch.no_grad():
        model.inside.weight.mul_(0.1)
        model.outside.weight.mul_(0.1)
    pruner.set_min_channel()
    after = pruner.current_subnet()
    assert counts(after) == counts(before)
    assert kept(after) != kept(before)
    pruner.prune()
    assert counts(pruner.current_subnet()) != counts(before)


def test_data_is_collected_by_the_pruner():
    _, pruner = prepared(ratio=0.5, importance=dict(type='TaylorImportance'))
    assert pruner.needs_data
    with pytest.raises(InputError, match='TaylorImportance has seen no data'):
        pruner.prune()
    assert pruner.collect([IMAGE, IMAGE + 1], lambda m, x: m(x).square().sum()) == 2
    assert pruner.verify_subnet(subnet=pruner.prune()).ok
    _, pruner = prepared(ratio=0.5)
    assert not pruner.needs_data
    with pytest.raises(InputError, match='L1Importance looks at no data'):
        pruner.collect([IMAGE], lambda m, x: m(x).sum())


def test_the_default_is_l1():
    assert type(ImportancePruner(ratio=0.5).importance).__name__ == 'L1Importance'


def test_preparing_again_forgets_the_widths():
    _, pruner = prepared(Wide(), ratio=0.5, scope='local')
    pruner.set_min_channel()
    pruner.prepare_from_supernet(randomise(Chain().double()), IMAGE)
    pruner.set_min_channel()
    assert counts(pruner.current_subnet()) == {'a': 4, 'b': 4, 'c': 4, 'd': 4}


# -- scores of groups of unlike sizes ----------------------------------------------------


class Unlike(nn.Module):
    """Sums over 3 x 3 x 64 and over 8 x 1 x 1 weights, alike in size weight by weight."""

    def __init__(self):
        super().__init__()
        self.narrow, self.wide, self.head = conv(3, 16, 1), conv(16, 64), conv(64, 2)

    def forward(self, x):
        return self.head(self.wide(self.narrow(x).relu()).relu())


def widths(importance, **options):
    _, pruner = prepared(Unlike(), importance=importance, **{'budget': dict(macs=0.5), **options})
    return counts(pruner.prune())


@pytest.mark.parametrize('kind', ['L1Importance', 'L2Importance'])
def test_global_scores_are_normalised_unless_a_config_says_otherwise(kind):
    left_out = widths(dict(type=kind))
    assert left_out == widths(dict(type=kind, normalise='mean'))
    assert left_out != widths(dict(type=kind, normalise='none'))
    assert widths(dict(type=kind, normalise='none')) == widths(Plain(kind))


def test_scores_within_a_group_are_compared_as_they_are():
    options = dict(scope='local', budget=dict(macs=0.5))
    plain = dict(type='L1Importance', normalise='none')
    assert widths(dict(type='L1Importance'), **options) == widths(plain, **options)


@pytest.mark.parametrize('kind', ['RandomImportance', 'LAMPImportance'])
def test_scores_that_compare_by_themselves_stay(kind):
    assert widths(dict(type=kind)) == widths(dict(type=kind, normalise='none'))


class Plain:
    """A criterion of somebody else's, that knows nothing of groups that are compared."""

    def __init__(self, kind):
        self.scores = IMPORTANCE.build(dict(type=kind, normalise='none')).scores
