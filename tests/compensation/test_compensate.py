"""What compensating promises around the solving: nothing else is touched, and all is told."""

import copy
import warnings

import pytest
import torch
from pruned_pairs import prepared
from torch import nn
from torch.nn import functional as F

from mmprune.compensation import LeastSquares, MeanFolding, batches_of, compensate, run_inputs
from mmprune.deploy import deploy
from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.errors import InputError


class Small(nn.Module):
    """Convolutions with norms, a shortcut and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.one, self.one_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.two_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        for norm in (self.stem_norm, self.one_norm, self.two_norm):
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        y = self.one_norm(self.one(x)).relu()
        return self.head((x + self.two_norm(self.two(y))).relu().mean((2, 3)))


@pytest.fixture
def network():
    return Small().double()


@pytest.fixture
def images():
    return torch.randn(60, 3, 8, 8).double()


@pytest.fixture
def pruned(network, images):
    """The pruner, the channel config and the small network."""
    pruner = prepared(network, images[:2])
    cfg = pruner.export_subnet()
    return pruner, cfg, pruner.deploy_subnet(network, cfg)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@torch.no_grad()
def distance(small, full, images):
    modes = [full.training, small.training]
    found = (small.eval()(images) - full.eval()(images)).square().mean().item()
    full.train(modes[0])
    small.train(modes[1])
    return found


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_a_prepared_network_keeps_its_subnet_mode_and_numbers(images, execution):
    torch.manual_seed(1)
    network = Small().double().train()
    pruner = prepared(network, images[:2], execution=execution)
    cfg = pruner.export_subnet()
    small = pruner.deploy_subnet(network, cfg).train()
    plain = copy.deepcopy(small)
    full = deploy(network, whole_cfg(pruner))
    before, random = state(network), torch.get_rng_state()
    report = pruner.compensate(small, images)
    assert torch.equal(torch.get_rng_state(), random)
    assert same(state(network), before)
    assert pruner.export_subnet() == cfg
    assert all(m.training for m in network.modules())
    assert all(m.training for m in small.modules())
    assert list(report.treated) == ['one', 'two', 'head']
    assert not report.left
    assert all(parameter.requires_grad for parameter in small.parameters())
    new = torch.randn(20, 3, 8, 8).double()
    assert distance(small, full, new) < distance(plain, full, new) / 4
    # What the promise is about, the cut, is as true as before.
    assert pruner.verify_subnet(subnet=pruner.load_channel_cfg(cfg)).ok


def whole_cfg(pruner):
    """The channel config of the full width."""
    subnet = pruner.current_subnet()
    pruner.set_max_channel()
    cfg = pruner.export_subnet()
    pruner.set_subnet(subnet)
    return as_channel_cfg(cfg)


def test_networks_that_were_pruned_elsewhere_need_no_pruner(images):
    full = Small().double()
    pruner = prepared(copy.deepcopy(full), images[:2])
    cfg = pruner.export_subnet()
    small = pruner.deploy_subnet(full, cfg)
    before, hooks = state(full), [len(m._forward_hooks) for m in full.modules()]
    plain = copy.deepcopy(small)
    report = compensate(full, small, cfg, images, dict(type='LeastSquares', ridge=1e-3))
    assert same(state(full), before)
    assert full.training
    assert [len(m._forward_hooks) for m in full.modules()] == hooks
    assert list(report.treated) == ['one', 'two', 'head']
    assert distance(small, full, images) < distance(plain, full, images) / 4
    assert 'LeastSquares: 3 layers compensated, median relative error' in str(report)


def test_norms_keep_the_full_networks_variances_and_weights(pruned, images):
    pruner, _, small = pruned
    before = state(small)
    pruner.compensate(small, images)
    changed = {n for n, t in state(small).items() if not torch.equal(t, before[n])}
    means = {'one_norm.running_mean', 'two_norm.running_mean'}
    assert changed == {'one.weight', 'two.weight', 'head.weight', 'head.bias', *means}


def test_batches_are_seen_together(pruned, images):
    """All of a layer's positions are taken here, so that the batches make no difference."""
    pruner, _, small = pruned
    others = [copy.deepcopy(small) for _ in range(2)]
    method = LeastSquares(samples=10**6)
    pruner.compensate(small, images, method)
    pruner.compensate(others[0], list(images.split(7)), method)
    pruner.compensate(others[1], ({'x': part} for part in images.split(30)), method)
    for other in others:
        for name, tensor in other.state_dict().items():
            torch.testing.assert_close(tensor, small.state_dict()[name], rtol=1e-8, atol=1e-10)


def test_samples_bound_what_is_looked_at(network, pruned, images, monkeypatch):
    pruner, _, small = pruned
    seen = []
    solve = LeastSquares.solve
    monkeypatch.setattr(
        LeastSquares, 'solve', lambda self, p: seen.append(p.count) or solve(self, p)
    )
    pruner.compensate(small, list(images.split(20)), LeastSquares(samples=99))
    assert seen == [99, 99, 60]  # the head has one position for each image


def test_the_same_seed_takes_the_same_positions(pruned, images):
    pruner, _, small = pruned
    runs = [copy.deepcopy(small) for _ in range(3)]
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        pruner.compensate(run, images, LeastSquares(samples=200, seed=seed))
    assert same(state(runs[0]), state(runs[1]))
    assert not same(state(runs[0]), state(runs[2]))


def test_only_layers_that_lost_inputs_if_asked(network, images):
    pruner = prepared(network, images[:2])
    subnet = pruner.current_subnet()
    pruner.set_subnet({n: m if n == 'one' else torch.ones_like(m) for n, m in subnet.items()})
    small = pruner.deploy_subnet(network, pruner.export_subnet())
    other = copy.deepcopy(small)
    assert list(pruner.compensate(small, images, LeastSquares(follow=False)).treated) == ['two']
    assert list(pruner.compensate(other, images).treated) == ['two', 'head']
    full = deploy(network, whole_cfg(pruner))
    assert distance(other, full, images) < distance(small, full, images)


def test_nothing_was_removed_nothing_changes(network, images):
    pruner = prepared(network, images[:2])
    pruner.set_max_channel()
    small = pruner.deploy_subnet(network, pruner.export_subnet())
    before = state(small)
    report = pruner.compensate(small, images)
    assert not report.treated
    assert not report.left
    assert same(state(small), before)
    assert str(report) == 'LeastSquares: 0 layers compensated'


def test_mean_folding_gives_every_layer_the_full_networks_mean(pruned, network, images):
    pruner, cfg, small = pruned
    weights = {n: t for n, t in state(small).items() if n.endswith('weight')}
    report = pruner.compensate(small, images, MeanFolding(samples=10**6))
    small.eval()
    assert list(report.treated) == ['one', 'two', 'head']
    assert all(torch.equal(small.state_dict()[n], t) for n, t in weights.items())
    full = deploy(network, whole_cfg(pruner)).eval()
    assert (small(images).mean(0) - full(images).mean(0)).abs().max() < 1e-10
    seen = {}
    for name, model in (('full', full), ('small', small)):
        model.one_norm.register_forward_hook(lambda m, a, out, n=name: seen.update({n: out}))
        model(images)
    kept = cfg['one'].get('out_index', range(cfg['one']['out_channels']))
    difference = seen['full'][:, list(kept)] - seen['small']
    assert difference.mean((0, 2, 3)).abs().max() < 1e-10


# -- what cannot be treated ------------------------------------------------------------


class Mixed(nn.Module):
    """Layers that nothing is known of, beside a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.recurrent = nn.Linear(5, 12), nn.LSTM(12, 8, batch_first=True)
        self.head, self.bare = nn.Linear(8, 3), nn.Parameter(torch.randn(8, 2))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))
        self.read = nn.Linear(8, 3)
        self.position = nn.Parameter(torch.randn(1, 6, 12))

    def forward(self, x):
        x = self.recurrent(self.stem(x) + self.position)[0].mean(1)
        twice = self.read(x) + x @ self.read.weight.t()
        return torch.cat([self.head(x), x @ self.bare, self.normed(x), twice], 1)


def test_what_stays_is_reported_with_the_reason(images):
    network = Mixed().double()
    x = torch.randn(40, 6, 5).double()
    pruner = prepared(network, x[:2])
    report = pruner.compensate(pruner.deploy_subnet(network, pruner.export_subnet()), x)
    assert list(report.treated) == ['head']
    recurrent = dict.fromkeys(
        ('recurrent.weight_ih_l0', 'recurrent.weight_hh_l0'), 'its weight is read by lstm'
    )
    assert report.left == {
        **recurrent,
        'bare': 'its weight is read by matmul',
        'normed': 'is not called, or its weight is computed from other tensors',
        'read': 'its weight is read by t',
    }
    assert 'not compensated: read: its weight is read by t' in str(report)


class Language(nn.Module):
    """A decoder that shares its weight with the embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.decode = nn.Linear(8, 20, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, x):
        return self.decode(self.mix(self.embed(x)).relu())


def test_a_weight_that_others_read_too_stays():
    network = Language().double()
    x = torch.randint(20, (30, 6))
    pruner = prepared(network, x[:2])
    small = pruner.deploy_subnet(network, pruner.export_subnet())
    weight = small.embed.weight.detach().clone()
    report = pruner.compensate(small, x)
    assert report.left == {'embed': 'its weight is read by embedding'}
    assert list(report.treated) == ['mix']
    assert small.decode.weight is small.embed.weight
    assert torch.equal(small.embed.weight, weight)


class Positions(nn.Module):
    """Channels that one layer makes are the places at which another one looks."""

    def __init__(self):
        super().__init__()
        self.stem, self.other = nn.Linear(4, 8), nn.Linear(4, 6)
        self.mix, self.head = nn.Linear(6, 3), nn.Linear(3, 2)

    def forward(self, x):
        table = self.stem(x)[:, :, None] * self.other(x)[:, None]  # (N, 8, 6)
        return self.head(F.relu(self.mix(table)).mean(1))


def test_a_layer_at_fewer_positions_is_left():
    network = Positions().double()
    x = torch.randn(30, 4).double()
    pruner = prepared(network, x[:2])
    assert pruner.current_subnet()['stem'].sum() == 4
    small = pruner.deploy_subnet(network, pruner.export_subnet())
    report = pruner.compensate(small, list(x.split(10)))
    assert report.left == {'mix': 'is called at 40 positions, not 80 as in the full network'}
    assert list(report.treated) == ['head']


class NoPlace(nn.Module):
    """A norm that two layers share, so that neither may move its mean."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(6, 2, 1)
        self.one, self.two = nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(8, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.stem(x)
        return self.last(self.norm(self.one(x)) * self.norm(self.two(x)))


def test_a_mean_goes_nowhere_where_others_would_get_it():
    network = NoPlace().double().eval()
    x = torch.randn(30, 3, 4, 4).double()
    pruner = prepared(network, x[:2])
    small = pruner.deploy_subnet(network, pruner.export_subnet())
    before = state(small)
    report = pruner.compensate(small, x, 'MeanFolding')
    why = 'has no bias of its own, and no batch norm right behind it'
    assert report.left == {'one': why, 'two': why}
    assert list(report.treated) == ['last']
    assert torch.equal(small.norm.running_mean, before['norm.running_mean'])
    report = pruner.compensate(small, x)  # weights alone do what they can
    assert list(report.treated) == ['one', 'two', 'last']
    assert not report.left
    assert torch.equal(small.norm.running_mean, before['norm.running_mean'])


def test_numbers_that_are_not_finite_change_nothing(pruned, images):
    pruner, _, small = pruned
    before = state(small)
    images[3, 0, 0, 0] = float('nan')
    report = pruner.compensate(small, images)
    assert set(report.left.values()) == {'reads or gives numbers that are not finite'}
    assert same(state(small), before)


# -- data ------------------------------------------------------------------------------


def test_a_batch_is_not_taken_for_batches():
    image = torch.rand(2, 3)
    assert batches_of(image) == [image]
    assert batches_of((image, image)) == [(image, image)]
    assert batches_of({'x': image}) == [{'x': image}]
    assert batches_of([image, image]) == [image, image]
    for empty in ([], iter(())):
        with pytest.raises(InputError, match='no batches'):
            batches_of(empty)
    with pytest.raises(InputError, match='not a int'):
        batches_of(3)


def test_labels_are_not_looked_at(pruned, images):
    pruner, _, small = pruned
    loader = [[part, torch.zeros(len(part))] for part in images.split(20)]
    with pytest.raises(InputError, match=r'batch 0: TypeError.*forward=lambda model, batch'):
        pruner.compensate(small, loader)
    other = copy.deepcopy(small)
    pruner.compensate(small, loader, forward=run_inputs)
    pruner.compensate(other, list(images.split(20)))
    assert same(state(small), state(other))


def test_another_network_is_refused_before_anything_runs(pruned, images):
    pruner, cfg, small = pruned
    before = state(small)
    pruner.set_max_channel()
    with pytest.raises(InputError, match=r"'stem.weight' is 4x3x3x3 in the small network"):
        pruner.compensate(small, images)
    with pytest.raises(InputError, match=r"'stem.weight' is missing"):
        pruner.compensate(nn.Linear(3, 2), images, channel_cfg=cfg)
    assert same(state(small), before)


def test_no_warning_is_raised_by_torchs_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 2))
    network = network.double().eval()
    x = torch.randn(30, 5, 3).double()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pruner = prepared(network, x[:2])
        small = pruner.deploy_subnet(network, pruner.export_subnet())
    report = pruner.compensate(small, list(x.split(10)))
    names = [f'1.layers.{n}.{part}' for n in range(2) for part in (
        'self_attn.in_proj_weight', 'self_attn.out_proj', 'linear1', 'linear2')]  # fmt: skip
    assert list(report.treated) == [*names, '2']
    assert not report.left
