"""What removed channels say is made up for exactly, where the kept ones say it too."""

import pytest
import torch
from pruned_pairs import PAIRS, Pair, mix, prepared
from torch import nn
from torch.nn import functional as F

from mmprune.compensation import LeastSquares, compensate

EXACT = LeastSquares(ridge=0.0)


def close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-8)


def kept_of(cfg, layer):
    """Which outputs of a layer stay, (outputs,) bool."""
    kept = torch.zeros(cfg[layer]['raw_out_channels'], dtype=torch.bool)
    kept[cfg[layer].get('out_index', range(cfg[layer]['out_channels']))] = True
    return kept


def mixed(network, pruner, layers, groups=1, constants=False):
    """The channel config of the subnet that is set, and the plain network, after mixing."""
    cfg = pruner.export_subnet()
    for layer in layers:
        mix(network.get_submodule(layer), kept_of(cfg, layer), groups, constants)
    small = pruner.deploy_subnet(network, cfg).eval()
    pruner.set_max_channel()
    return cfg, small


# A constant that a border of zeros breaks off, or that no bias can take, cannot be made up for.
PLACED = {'linear on vectors', 'linear on tokens', 'conv2d', 'conv3d', 'reflected', 'grouped'}


@pytest.mark.parametrize('name', PAIRS)
def test_a_layer_gives_what_it_gave(name):
    first, second, shape = PAIRS[name]
    network = Pair(first(), second()).double()
    images = torch.randn(40, *shape).double()
    pruner = prepared(network, images[:2])
    groups = getattr(network.second, 'groups', 1)
    cfg, small = mixed(network, pruner, ['first'], groups, name in PLACED)
    new = torch.randn(5, *shape).double()
    expected = network(new)
    assert (small(new) - expected).abs().max() > 0.1  # as cut
    report = pruner.compensate(small, [images[:10], images[10:]], EXACT, cfg)
    close(small(new), expected)
    assert list(report.treated) == ['second']
    assert not report.left
    assert report.treated['second'].before > 0.1
    assert report.treated['second'].after < 1e-20


class Chain(nn.Module):
    """A depthwise convolution in the middle, norms behind all; no bias but the last one's."""

    def __init__(self):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.point, self.point_norm = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        for norm in (self.first_norm, self.depthwise_norm, self.point_norm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.uniform_(norm.bias)  # no channel is dead

    def forward(self, x):
        x = self.first_norm(self.first(x)).relu()
        x = self.depthwise_norm(self.depthwise(x)).relu()
        return self.head(self.point_norm(self.point(x)).relu().mean((2, 3)))


def only(pruner, *spaces):
    """Prune these groups alone."""
    subnet = pruner.current_subnet()
    pruner.set_subnet({n: m if n in spaces else torch.ones_like(m) for n, m in subnet.items()})


def test_copies_of_channels_are_not_missed_behind_norms_and_activations():
    network = Chain().double().eval()
    images = torch.randn(30, 3, 9, 8).double()
    pruner = prepared(network, images[:2])
    only(pruner, 'first')
    kept = pruner.current_subnet()['first'].flatten().bool()
    go, stay = torch.where(~kept)[0], torch.where(kept)[0]
    with torch.no_grad():
        for layer in (network.first, network.first_norm, network.depthwise, network.depthwise_norm):
            for name in ('weight', 'bias', 'running_mean', 'running_var'):
                if (tensor := getattr(layer, name, None)) is not None:
                    tensor[go] = tensor[stay]
    cfg, small = mixed(network, pruner, [])
    means = small.point_norm.running_mean.clone()
    new = torch.randn(5, 3, 9, 8).double()
    report = pruner.compensate(small, images, EXACT, cfg)
    close(small(new), network(new))
    assert next(iter(report.treated)) == 'point'
    assert all(fit.before < 1e-20 for name, fit in report.treated.items() if name != 'point')
    assert torch.equal(small.depthwise.weight, network.depthwise.weight[kept])
    close(small.point_norm.running_mean, means)  # nothing but the weight was needed


@torch.no_grad()
def test_a_depthwise_convolution_makes_up_for_another_scale():
    network = Chain().double().eval()
    images = torch.randn(30, 3, 9, 8).double()
    pruner = prepared(network, images[:2])
    only(pruner, 'first')
    cfg, small = mixed(network, pruner, [])
    kept = pruner.load_channel_cfg(cfg)['first'].flatten().bool()
    expected = small(images)
    # Channels that are read at another scale, as after pruning with other weights elsewhere.
    scale = torch.rand(int(kept.sum())).double() + 0.5
    small.first_norm.weight.mul_(scale)
    small.first_norm.bias.mul_(scale)
    assert (small(images) - expected).abs().max() > 1e-3
    report = pruner.compensate(small, images, LeastSquares(0.0, follow=False), cfg)
    close(small.depthwise.weight, network.depthwise.weight[kept] / scale[:, None, None, None])
    assert 'depthwise' in report.treated


class Attention(nn.Module):
    """Attention of torch, in a network that loses heads."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=batch_first)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize('batch_first', [True, False])
def test_attention_makes_up_for_heads_and_for_what_it_reads(batch_first):
    network = Attention(batch_first).double().eval()
    images = torch.randn(30, 6, 5).double()
    pruner = prepared(network, images[:2])
    cfg = pruner.export_subnet()
    kept = torch.tensor(cfg['attention']['tensors']['in_proj_weight']['0']['index'])[:6]
    go = torch.tensor([n for n in range(12) if n not in kept.tolist()])
    assert len(go) == len(kept) == 6
    with torch.no_grad():  # heads that go are copies
        for part in range(3):
            network.attention.in_proj_weight[12 * part + go] = network.attention.in_proj_weight[
                12 * part + kept
            ]
            network.attention.in_proj_bias[12 * part + go] = network.attention.in_proj_bias[
                12 * part + kept
            ]
    cfg, small = mixed(network, pruner, ['embed', 'attention.out_proj'], constants=True)
    new = torch.randn(4, 6, 5).double()
    report = pruner.compensate(small, images, EXACT, cfg)
    close(small(new), network(new))
    assert list(report.treated) == ['attention.in_proj_weight', 'attention.out_proj', 'head']


class Pyramid(nn.Module):
    """A head that is shared by two levels, with a norm for each, and a layer behind them."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 2, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.last = nn.Conv2d(6, 2, 1)
        for norm in self.norms:
            nn.init.normal_(norm.running_mean)

    def forward(self, x):
        fine = self.stem(x)
        levels = zip((fine, F.max_pool2d(fine, 2, 2)[:, :, 1:]), self.norms, strict=True)
        return [self.last(norm(self.head(level)).relu()) for level, norm in levels]


def test_a_head_that_is_used_twice_is_solved_for_both_uses():
    network = Pyramid().double().eval()
    images = torch.randn(30, 3, 8, 8).double()
    pruner = prepared(network, images[:2])
    only(pruner, 'stem')
    cfg = pruner.export_subnet()
    kept = kept_of(cfg, 'stem')
    with torch.no_grad():  # what survives pooling as well: channels that go are copies
        network.stem.weight[~kept] = network.stem.weight[kept]
        network.stem.bias[~kept] = network.stem.bias[kept] + torch.randn(4).double()
    cfg, small = mixed(network, pruner, [])
    report = pruner.compensate(small, [images[:7], images[7:]], EXACT, cfg)
    new = torch.randn(4, 3, 8, 8).double()
    for found, expected in zip(small(new), network(new), strict=True):
        close(found, expected)
    assert list(report.treated) == ['head']
    for full, own in zip(network.norms, small.norms, strict=True):
        assert (full.running_mean - own.running_mean).abs().max() > 1e-2
        assert torch.equal(full.running_var, own.running_var)


class Tied(nn.Module):
    """Two layers with one weight and a bias each."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.third.weight = self.second.weight

    def forward(self, x):
        x = self.second(self.first(x))
        return self.last(self.third(F.relu(x)))


def test_tied_weights_stay_tied_and_get_closer():
    network = Tied().double()
    images = torch.randn(200, 4).double()
    pruner = prepared(network, images[:2])
    cfg, small = mixed(network, pruner, [])
    before = (small(images) - network(images)).square().mean()
    report = pruner.compensate(small, list(images.split(50)), channel_cfg=cfg)
    assert small.third.weight is small.second.weight
    assert {'second', 'last'} <= set(report.treated)
    assert (small(images) - network(images)).square().mean() < before / 2


def test_the_order_of_shuffled_channels_is_kept():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 12, 1, groups=2), nn.Conv2d(12, 2, 1)
    ).double()
    images = torch.randn(50, 3, 4, 4).double()
    pruner = prepared(network, images[:2])
    cfg, small = mixed(network, pruner, [])
    compensate(network, small, cfg, images, LeastSquares(0.0))
    # No linear layer does better at the last place, given what it reads.
    with torch.no_grad():
        reads = small[:3](images).movedim(1, -1).flatten(0, 2)
        reads = torch.cat([reads, torch.ones(len(reads), 1).double()], 1)
        wanted = network(images).movedim(1, -1).flatten(0, 2)
        # What it reads may have channels that are sums of others.
        best = reads @ torch.linalg.lstsq(reads, wanted, driver='gelsd').solution
        close(small(images).movedim(1, -1).flatten(0, 2), best)
