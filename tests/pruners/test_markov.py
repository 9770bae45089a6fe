"""Markov chains over widths: what they draw, what that costs, the softened network, refusals."""

import numpy as np
import pytest
import torch
from pruned_network import IMAGE, Network, conv, counts
from randomised import randomise
from torch import nn

from mmprune.errors import InputError
from mmprune.registry import PRUNERS

RATIOS = [0.25, 0.5, 0.75, 1.0]


def markov(network=None, data=IMAGE, **options):
    network = Network().double() if network is None else network
    model = randomise(network.to(data.dtype)).eval()
    options = dict(type='MarkovPruner', budget=dict(macs=0.5), ratios=RATIOS) | options
    pruner = PRUNERS.build(options)
    pruner.prepare_from_supernet(model, data)
    return model, pruner


def learn(pruner, seed=0):
    """Chains that are all different."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        pruner.logits += torch.randn(pruner.logits.shape, generator=generator)


def per_channel():
    """A network whose norms look at one channel at a time, and whose costs follow from widths."""
    network = Network()
    network.grouped = conv(14, 12)
    network.group_norm, network.layer_norm = nn.BatchNorm2d(12), nn.Identity()
    return network


def test_all_rungs_are_equally_likely_before_training():
    _, pruner = markov(per_channel())
    for row, widths in enumerate(pruner.space.values()):
        chances = pruner.chances()[row].detach()
        torch.testing.assert_close(
            chances[: len(widths)], torch.full((len(widths),), 1 / len(widths), dtype=torch.float64)
        )
        assert (chances[len(widths) :] == 0).all()


def chain():
    layers = [conv(3, 24), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 36), nn.ReLU(), conv(36, 24)]
    return nn.Sequential(*layers, nn.ReLU(), conv(24, 4))


def test_the_expected_cost_is_the_mean_of_ten_thousand_subnets():
    """Within its error, for chains that are all different."""
    _, pruner = markov(chain(), budget=dict(macs=0.5, params=0.9))
    learn(pruner)
    table = pruner.cost_table()
    np.random.seed(0)
    drawn = [pruner.sample_subnet() for _ in range(10_000)]
    found = table.batch(np.stack([table.widths_of(subnet) for subnet in drawn]))
    with torch.no_grad():
        costs = pruner.expected_cost()
    for name, expected in costs.items():
        error = found[name].std() / 100
        assert abs(found[name].mean() - float(expected)) < 3 * error
        assert error < 0.01 * float(expected)


def test_a_network_softened_by_chances_of_0_and_1_is_the_subnet():
    """Through a sum, a concatenation and a depthwise convolution."""
    model, pruner = markov(per_channel())
    rungs = np.random.default_rng(0).integers(0, 3, len(pruner.space))
    with torch.no_grad():
        for row, rung in enumerate(rungs):
            pruner.logits[row] = torch.where(torch.arange(3) < rung, 100.0, -1000.0)
        with pruner.softened():
            softened = model(IMAGE)
        full = model(IMAGE)
        pruner.set_subnet(pruner.space.subnet_at(rungs.tolist()))
        assert counts(pruner.learned_subnet()).keys() == pruner.channel_spaces.keys()
        torch.testing.assert_close(softened, model(IMAGE), rtol=1e-10, atol=1e-12)
    assert (softened - full).abs().max() > 1e-3


def test_gradients_reach_every_chain():
    model, pruner = markov(per_channel())
    with pruner.softened():
        loss = model(IMAGE).square().sum()
    (gradient,) = torch.autograd.grad(loss, pruner.logits)
    assert ((gradient != 0) == pruner.logits.isfinite()).all()


def test_what_cannot_be_drawn_by_widths_alone():
    """The grouped convolution keeps other channels of the concatenation than a width says."""
    with pytest.raises(InputError, match=r"except_start_keys: .* group 'stem' are kept"):
        markov(Network())


def test_the_learned_subnet_is_within_the_budget_and_uses_it():
    _, pruner = markov(chain(), ratios=[i / 12 for i in range(1, 13)])
    for seed in range(3):
        learn(pruner, seed)
        with torch.no_grad():
            pruner.logits += 1
            assert pruner.expected_cost()['macs'] > 0.5 * pruner.cost()['macs']
        cost = pruner.cost(pruner.learned_subnet())['macs'] / pruner.cost()['macs']
        assert 0.45 < cost <= 0.5


def test_learning_in_mixed_precision():
    """Softened, listened to and mixed: numbers of 16 bits, finite gradients in full precision."""
    model, pruner = markov(per_channel(), IMAGE.float())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = dict(type='ImportancePruner', ratio=0.5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        with pruner.softened():
            loss = model(IMAGE.float()).square().mean()
        (gradient,) = torch.autograd.grad(loss, pruner.logits)
        assert gradient.dtype == torch.float64
        assert gradient.isfinite().all()

        fisher = PRUNERS.build(options | dict(importance='GroupFisher'))
        fisher.prepare_from_supernet(model, IMAGE.float())
        with fisher.importance.listening(model, fisher.channel_groups, scale=1024):
            (model(IMAGE.float()).square().mean() * 1024).backward()
        assert fisher.importance.num_batches == 1
        found = fisher.importance.scores(fisher.channel_groups['wide'], model)

        fusion = PRUNERS.build(options | dict(importance='Fusion'))
        fusion.prepare_from_supernet(model, IMAGE.float())
        subnet = fusion.prune()
        fusion.supernet.execution.mix(fusion.importance.mixings(fusion.channel_groups, model))
        fusion.set_subnet(subnet)
        model.zero_grad()
        model(IMAGE.float()).square().mean().backward()
        assert model.wide.weight.grad.dtype == torch.float32
        assert (model.wide.weight.grad != 0).flatten(1).any(1).all()

    model = per_channel().float()
    model.load_state_dict(before, strict=False)
    fisher.prepare_from_supernet(model, IMAGE.float())
    fisher.importance.reset()
    with fisher.importance.listening(model.eval(), fisher.channel_groups):
        model(IMAGE.float()).square().mean().backward()
    expected = fisher.importance.scores(fisher.channel_groups['wide'], model)
    assert 0.8 < found.sum() / expected.sum() < 1.25


class Scores(nn.Module):
    """Queries and keys that nothing reads but their product."""

    def __init__(self):
        super().__init__()
        self.stem, self.q, self.k = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(8, 6)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.q(x) @ self.k(x).transpose(-1, -2))


def test_what_no_layer_reads_stays_whole():
    data = torch.rand(2, 5, 3, dtype=torch.float64)
    _, pruner = markov(Scores(), data, budget=dict(macs=0.9))
    (unread,) = set(pruner.space) - {'stem'}
    for _ in range(20):
        assert counts(pruner.sample_subnet())[unread] == 6
    assert counts(pruner.learned_subnet())[unread] == 6


def test_a_budget_below_the_narrowest_widths():
    with pytest.raises(InputError, match='the narrowest widths cost more than the budget'):
        markov(budget=dict(macs=0.05), ratios=[0.5, 1.0])
