"""The importance that knows what least squares can make up for."""

import numpy as np
import pytest
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.importance.residual import STEPS, Use, removal_costs
from mmprune.registry import IMPORTANCE, PRUNERS


def covariances(count, seed=0, own=0.1):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(count, count, generator=generator, dtype=torch.float64)
    return factor @ factor.T / count + own * torch.eye(count, dtype=torch.float64)


def missing(reads, rows, kept):
    """What is lost by the best weights on the kept channels, by least squares."""
    both = reads @ rows
    best = torch.linalg.solve(reads[kept][:, kept], both[kept])
    return (rows * both).sum() - (best * both[kept]).sum()


def prepared(network, images, **options):
    pruner = PRUNERS.build(dict(type='ImportancePruner', ratio=0.5, importance=options))
    pruner.prepare_from_supernet(network, demo_input=images[:1])
    return pruner


def collected(network, images, **options):
    """Scores by group."""
    pruner = prepared(network, images, type='ResidualImportance', **options)
    pruner.collect([images], lambda model, batch: model(batch))
    groups = {s: g for s, g in pruner.channel_groups.items() if g.prunable}
    return {s: pruner.importance.scores(group, network) for s, group in groups.items()}


# -- the costs -------------------------------------------------------------------------


def test_costs_add_up_to_what_least_squares_loses():
    reads = covariances(12, own=2)
    rows = torch.randn(12, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    costs = removal_costs([Use(reads, rows @ rows.T)], ridge=1e-12)
    order = costs.argsort()
    assert (costs[order].diff() > 0).all()  # else their sums would say too much
    for gone in (1, 4, 9, 11):
        kept = order[gone:].sort().values
        lost = missing(reads, rows, kept)
        torch.testing.assert_close(costs[order[:gone]].sum(), lost, rtol=1e-6, atol=0)


def test_each_is_the_cheapest_of_those_that_are_left():
    reads = covariances(8, seed=3)
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    order = removal_costs([Use(reads, rows @ rows.T)], ridge=1e-12).argsort().tolist()
    left, lost = list(range(8)), torch.zeros((), dtype=torch.float64)
    for channel in order[:-1]:
        others = {c: missing(reads, rows, [k for k in left if k != c]) - lost for c in left}
        assert min(others, key=others.get) == channel
        left.remove(channel)
        lost = missing(reads, rows, left)


def test_layers_are_added_up():
    uses = [Use(covariances(6, seed), covariances(6, seed + 9)) for seed in (0, 1)]
    doubled = removal_costs([*uses, *uses], ridge=1e-3)
    torch.testing.assert_close(doubled, 2 * removal_costs(uses, ridge=1e-3))
    assert not torch.equal(doubled.argsort(), removal_costs(uses[:1], ridge=1e-3).argsort())


def test_many_channels_are_removed_a_share_at_a_time():
    count = 3 * STEPS
    reads, weights = torch.eye(count, dtype=torch.float64), torch.rand(count).double().diag()
    costs = removal_costs([Use(reads, weights)], ridge=1e-9)
    torch.testing.assert_close(costs, weights.diagonal(), rtol=1e-6, atol=0)


def test_what_is_never_read_costs_nothing():
    reads, weights = covariances(5), covariances(5, seed=1)
    reads[:2], reads[:, :2] = 0, 0
    weights[3], weights[:, 3] = 0, 0
    costs = removal_costs([Use(reads, weights)], ridge=1e-6)
    assert costs[:2].max() < 1e-5
    assert costs[[2, 4]].min() > 1e-3
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert removal_costs([Use(nothing, weights[:3, :3])], ridge=1e-6).max() < 1e-9


# -- of networks -----------------------------------------------------------------------


def test_one_of_two_alike_is_free_and_the_other_is_not():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 3))
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias):
            tensor[4] = 2 * tensor[1]  # however large the weights are
    images = torch.randn(8, 2, 9, 9)
    (scores,) = collected(network, images, ridge=1e-9).values()
    twins = sorted(scores[[1, 4]])
    assert twins[0] < 1e-3 < 0.05 < twins[1]
    assert scores.argmin() in (1, 4)


def test_a_linear_layer_misses_what_the_scores_say():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    tokens = torch.randn(30, 7, 5, dtype=torch.float64)
    (scores,) = collected(network, tokens, ridge=1e-9).values()
    order = scores.argsort()
    read = network[:2](tokens).flatten(0, 1).detach()
    given = network[2](network[:2](tokens)).flatten(0, 1).detach()
    read, given = read - read.mean(0), given - given.mean(0)
    for gone in (2, 5):
        kept = read[:, torch.from_numpy(np.sort(order[gone:]))]
        rest = given - kept @ torch.linalg.lstsq(kept, given).solution
        share = float(rest.square().sum() / given.square().sum())
        assert float((scores[order[:gone]] ** 2).sum()) == pytest.approx(share, rel=1e-3)


class Several(nn.Module):
    """Channels that go through a depthwise layer to a grouped one, to a flat and a turned one."""

    def __init__(self):
        super().__init__()
        self.a, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.turned, self.fc = nn.ConvTranspose2d(8, 5, 2, 2), nn.Linear(8 * 16, 4)

    def forward(self, x):
        x = self.deep(self.a(x)).relu()
        return self.grouped(x), self.turned(x), self.fc(x.flatten(1))


def test_layers_of_all_kinds_read():
    torch.manual_seed(0)
    network = Several()
    images = torch.randn(16, 3, 4, 4)
    pruner = prepared(network, images, type='ResidualImportance')
    pruner.collect(images.split(8), lambda model, batch: model(batch)[2].sum())
    group = pruner.channel_groups['a']
    assert [key[1] for key in pruner.importance.sums if key[0] == 'a'] == [
        'grouped.weight', 'turned.weight', 'fc.weight',
    ]  # fmt: skip
    scores = pruner.importance.scores(group, network)
    assert scores.shape == (8,)
    assert (scores > 0).all()
    # Through a flatten, a layer reads a channel at all of its places.
    flat = pruner.importance.sums['a', 'fc.weight', (1,)] / 2
    seen = network.deep(network.a(images)).relu().detach().double()
    centred = [part - part.mean(0) for part in seen.split(8)]
    products = sum(torch.einsum('nchw,ndhw->cd', part, part) / 8 for part in centred)
    given = [network.fc(part.float().flatten(1)).double() for part in seen.split(8)]
    by_hand = [
        torch.einsum('nchw,ndhw->cd', part, part) / 8 / out.var(0, unbiased=False).sum()
        for part, out in zip(centred, given, strict=True)
    ]
    torch.testing.assert_close(flat, sum(by_hand).detach() / 2, rtol=1e-4, atol=1e-6)
    assert products.shape == flat.shape


def test_channels_that_a_grouped_layer_reads_apart_cannot_take_over():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    with torch.no_grad():
        for tensor in (network[0].weight, network[0].bias):
            tensor[2] = tensor[0]  # one is read by each group
    images = torch.randn(8, 2, 9, 9)
    scores = collected(network, images, ridge=1e-9)['0']
    assert scores.min() > 1e-3


class Attention(nn.Module):
    """Queries and keys meet in a product that no layer takes part in."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        seen = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.out(seen @ self.v(x))


def test_groups_that_no_layer_mixes_have_a_fallback():
    torch.manual_seed(0)
    network, tokens = Attention(), torch.randn(4, 5, 6)
    scores = collected(network, tokens)
    l1 = prepared(Attention(), tokens, type='L1Importance').importance
    pruner = prepared(network.cpu(), tokens, type='L1Importance')
    np.testing.assert_allclose(scores['q'], l1.scores(pruner.channel_groups['q'], network))
    assert scores['v'].max() < 1
    with pytest.raises(InputError, match=r"group 'q': ResidualImportance finds nothing to go by"):
        collected(Attention(), tokens, fallback=None)


def test_mistakes():
    with pytest.raises(InputError, match='ridge must be a finite number above 0, not 0'):
        IMPORTANCE.build(dict(type='ResidualImportance', ridge=0))
    network, images = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)), torch.rand(2, 1, 4, 4)
    pruner = prepared(network, images, type='ResidualImportance')
    with pytest.raises(InputError, match='ResidualImportance has seen no data'):
        pruner.prune()


def test_channels_that_a_subnet_lacks_cost_least():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3))
    images = torch.randn(4, 3, 6, 6)
    pruner = prepared(network, images, type='ResidualImportance')
    pruner.set_subnet({'0': torch.tensor([1, 0, 1, 1, 0, 1])})
    pruner.collect([images], lambda model, batch: model(batch))
    scores = pruner.importance.scores(pruner.channel_groups['0'], network)
    assert scores[[1, 4]].max() < scores[[0, 2, 3, 5]].min() / 2
