"""Penalties, and deploying in place, in a training loop of one's own."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from pruned_network import IMAGE, Network
from randomised import randomise, scattered
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmprune.errors import InputError
from mmprune.registry import PRUNERS
from mmprune.training import GroupLasso, GrowingPenalty, ScaleL1, SlimmingPenalty

AVERAGES = {
    'torch': lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7)),
    'mmengine': lambda model: ExponentialMovingAverage(model, momentum=0.3),
    'a copy': copy.deepcopy,
}


class Loop:
    """A network in training, with an optimizer and an average."""

    def __init__(self, average='torch', penalty=None):
        torch.manual_seed(0)
        self.model = randomise(Network().double()).train()
        self.pruner = PRUNERS.build(dict(type='ImportancePruner', ratio=0.5, scope='local'))
        self.pruner.prepare_from_supernet(self.model, IMAGE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.average = AVERAGES[average](self.model)
        self.penalty = penalty
        self.count = 0

    def step(self, count=1):
        for _ in range(count):
            generator = torch.Generator().manual_seed(self.count)
            images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
            self.optimizer.zero_grad()
            self.model(images).square().mean().backward()
            if self.penalty is not None:
                self.penalty.add_gradients(self.pruner)
            self.optimizer.step()
            self.follow()
            self.count += 1

    def follow(self):
        if hasattr(self.average, 'update_parameters'):
            self.average.update_parameters(self.model)
            return
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for mean, now in pairs:
                mean.lerp_(now, 0.3)


def network(average):
    return getattr(average, 'module', average)


@pytest.mark.parametrize('average', AVERAGES)
def test_training_goes_on_as_the_supernets_would(average):
    inside, outside = Loop(average), Loop(average)
    for loop in (inside, outside):
        loop.step(3)
        loop.pruner.set_subnet(scattered(loop.pruner, seed=1))
    cfg = inside.pruner.export_subnet()
    small = outside.pruner.deploy_in_place(
        optimizers=[outside.optimizer], averages=[outside.average]
    )
    assert small is outside.model
    assert not outside.pruner.supernet.is_current
    held = {id(p) for group in outside.optimizer.param_groups for p in group['params']}
    assert held == {id(p) for p in small.parameters()}
    for loop in (inside, outside):
        loop.step(3)
    expected = inside.pruner.deploy_subnet(inside.model, cfg)
    for (name, found), other in zip(
        small.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-12, msg=name)
    averaged = inside.pruner.deploy_subnet(network(inside.average), cfg)
    for (name, mean), other in zip(
        network(outside.average).named_parameters(), averaged.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, other, rtol=1e-10, atol=1e-12, msg=name)


def test_a_channel_config_may_be_given():
    loop = Loop()
    subnet = scattered(loop.pruner, seed=2)
    loop.pruner.set_subnet(subnet)
    cfg = loop.pruner.export_subnet()
    expected = loop.pruner.deploy_subnet(loop.model, cfg).eval()(IMAGE)
    loop.pruner.set_max_channel()
    found = loop.pruner.deploy_in_place(cfg, optimizers=[loop.optimizer]).eval()(IMAGE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_changes_nothing():
    loop = Loop()
    loop.step()
    loop.pruner.prune()
    before = [tuple(p.shape) for p in loop.model.parameters()]
    with pytest.raises(InputError, match='an average cannot be cut like the model: '):
        loop.pruner.deploy_in_place(averages=[nn.Linear(2, 2)])
    odd = torch.optim.SGD(loop.model.parameters(), lr=1)
    odd.state[next(loop.model.parameters())] = dict(rows=torch.zeros(3))
    with pytest.raises(InputError, match="SGD keeps 'rows' of shape"):
        loop.pruner.deploy_in_place(optimizers=[loop.optimizer, odd])
    assert [tuple(p.shape) for p in loop.model.parameters()] == before
    assert loop.pruner.supernet.is_current


@pytest.mark.parametrize(
    'penalty',
    [
        ScaleL1(0.1),
        GroupLasso(0.1),
        GroupLasso(0.1, size_weighted=True),
        SlimmingPenalty(0.1),
        GrowingPenalty(0.1, interval=1, begin=0),
    ],
    ids=lambda penalty: type(penalty).__name__,
)
def test_a_penalty_is_added_to_the_gradients(penalty):
    loop = Loop()
    loop.model(IMAGE).square().mean().backward()
    names = {id(p): name for name, p in loop.model.named_parameters()}
    before = {name: p.grad.clone() for name, p in loop.model.named_parameters()}
    penalty.add_gradients(loop.pruner)
    with torch.no_grad():
        for parameter, term in penalty.terms():
            before[names[id(parameter)]] += term
    changed = 0
    for name, parameter in loop.model.named_parameters():
        torch.testing.assert_close(parameter.grad, before[name], rtol=1e-12, atol=1e-12)
        changed += bool(before[name].any())
    assert changed
    loop.pruner.deploy_in_place(optimizers=[loop.optimizer])
    after = [p.grad.clone() for p in loop.model.parameters()]
    penalty.add_gradients(loop.pruner)  # nothing is left to be penalised
    for parameter, gradient in zip(loop.model.parameters(), after, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)


def test_a_growing_penalty_grows_by_itself_and_drives_to_zero_what_goes():
    penalty = GrowingPenalty(0.5, interval=2, ceiling=20.0, begin=2)
    loop = Loop(penalty=penalty)
    strengths = []
    for _ in range(7):
        loop.step()
        strengths.append(penalty.strength)
    assert strengths == [0, 0, 0.5, 0.5, 1, 1, 1.5]
    leaving = {id(p): mask.bool() for p, mask in penalty.leaving}
    (weight, mask), *_ = [(p, leaving[id(p)]) for p in loop.model.parameters() if id(p) in leaving]
    start = weight[mask].abs().mean()
    loop.step(60)
    assert weight[mask].abs().mean() < 0.5 * start
