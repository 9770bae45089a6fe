"""Subnets that share all weights but those of norms, which each has for itself."""

import copy
from itertools import pairwise

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from randomised import randomise, scattered
from saved_supernets import contents
from torch import nn

from mmprune.errors import InputError
from mmprune.execution.switchable_norms import SwitchableNorms
from mmprune.registry import PRUNERS
from mmprune.trace.calls import tensors_in

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SUBNETS = range(3)


class Network(nn.Module):
    """Norms of every kind that has running statistics, a residual, a concatenation, a GroupNorm."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1), norm(8)
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm(8, affine=False))
        self.c = nn.Sequential(
            nn.Conv2d(8, 6, 3, padding=1),
            nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        )
        self.group = nn.GroupNorm(2, 8)
        self.joined = norm(14, momentum=None)
        self.d, self.volumes = nn.Conv3d(14, 8, 1), nn.BatchNorm3d(8)
        self.fc, self.vectors, self.head = nn.Linear(8, 10), nn.BatchNorm1d(10), nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.norm_a(self.a(x)))
        x = self.group(x + self.b(x))
        x = torch.relu(self.joined(torch.cat([x, self.c(x)], dim=1)))
        x = torch.relu(self.volumes(self.d(x[:, :, None]))).mean((2, 3, 4))
        return self.head(torch.relu(self.vectors(self.fc(x))))


def prepare(execution='slice', network=None):
    """A supernet, its pruner, the channel configs of three subnets, and their norms, all random."""
    model = randomise((network or Network()).double()).eval()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.25, 0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, IMAGES)
    cfgs = []
    for seed in SUBNETS:
        pruner.set_subnet(scattered(pruner, seed))
        cfgs.append(pruner.export_subnet())
    norms = pruner.switchable_norms(len(cfgs))
    for seed, others in enumerate(norms.others, 1):
        randomise(others, seed)
    return model, pruner, cfgs, norms


def plain(pruner, model, cfgs, number):
    pruner.switch_subnet(cfgs, number)
    return pruner.deploy_subnet(model, pruner.export_subnet())


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_each_subnet_computes_what_it_does_alone(execution):
    model, pruner, cfgs, _ = prepare(execution)
    outputs = []
    for number in (2, 0, 1, 2):
        alone = plain(pruner, model, cfgs, number)
        assert pruner.verify_subnet(model, pruner.current_subnet()).ok
        with torch.no_grad():
            outputs.append(model.eval()(IMAGES))
            torch.testing.assert_close(outputs[-1], alone.eval()(IMAGES), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(outputs[0], outputs[3], rtol=0, atol=0)
    assert not any(torch.allclose(a, b) for a, b in pairwise(outputs))

    # The norms make a difference: with the first subnet's own, the last one gives something else.
    pruner.switch_subnet(cfgs, 0)
    pruner.switch_subnet(cfgs[2])
    with torch.no_grad():
        assert not torch.allclose(model(IMAGES), outputs[0])


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_each_subnet_trains_as_it_does_alone(execution):
    model, pruner, cfgs, norms = prepare(execution)
    optimizer = torch.optim.SGD([*model.parameters(), *norms.parameters()], lr=0.1)
    alone = [plain(pruner, model, cfgs, number) for number in SUBNETS]
    for number, network in enumerate(alone):
        network.train()(IMAGES).square().sum().backward()
        pruner.switch_subnet(cfgs, number)
        model.train()(IMAGES).square().sum().backward()
    optimizer.step()
    for number, network in enumerate(alone):
        torch.optim.SGD(network.parameters(), lr=0.1).step()
        found = plain(pruner, model, cfgs, number)
        own = {
            n for n, m in network.named_modules() if getattr(m, 'running_mean', None) is not None
        }
        assert len(own) == 6
        for name, tensor in network.state_dict().items():
            if name.rpartition('.')[0] in own:
                torch.testing.assert_close(found.state_dict()[name], tensor, msg=name)


def test_what_is_set_when_it_is_saved_does_not_matter():
    model, pruner, cfgs, norms = prepare()
    expected = [plain(pruner, model, cfgs, number).eval()(IMAGES) for number in SUBNETS]
    algorithm = nn.ModuleDict(dict(model=model, norms=norms))
    pruner.switch_subnet(cfgs, 2)
    other, others_pruner, _, others_norms = prepare()
    randomise(other, 9)
    others_pruner.switch_subnet(cfgs, 1)
    both = nn.ModuleDict(dict(model=other, norms=others_norms))
    both.load_state_dict(contents(algorithm))
    for number in (0, 2, 1):
        found = plain(others_pruner, other, cfgs, number).eval()(IMAGES)
        torch.testing.assert_close(found, expected[number], rtol=1e-12, atol=1e-12)
    # As if it was moved to another device, which makes other tensors of buffers.
    both.float().double()
    others_pruner.switch_subnet(cfgs, 2)
    others_pruner.switch_subnet(cfgs, 1)
    for number in (1, 2, 0):
        found = plain(others_pruner, other, cfgs, number).eval()(IMAGES)
        torch.testing.assert_close(found, expected[number], rtol=1e-4, atol=1e-5)
    copied = copy.deepcopy(both)
    copied['norms'].switch(1)
    assert int(norms.index) == 2
    others_pruner.switch_subnet(cfgs, 1)
    torch.testing.assert_close(copied['model'].norm_a.weight, other.norm_a.weight, rtol=0, atol=0)


def test_norms_that_are_replaced_are_switched_where_they_stand_now():
    """mmengine's runner puts other norms in the place of every SyncBN, when all is prepared."""
    model, pruner, cfgs, norms = prepare(network=Network(nn.SyncBatchNorm))
    revert_sync_batchnorm(nn.ModuleDict(dict(model=model, norms=norms)))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in [*model.modules(), *norms.modules()])
    for number in (1, 0, 2):
        alone = plain(pruner, model, cfgs, number).eval()
        torch.testing.assert_close(model(IMAGES), alone(IMAGES), rtol=1e-10, atol=1e-12)


def test_tensors_are_in_one_place_each():
    model, pruner, cfgs, norms = prepare()
    every = [*tensors_in([*model.state_dict().values()]), *norms.state_dict().values()]
    assert len({tensor.data_ptr() for tensor in every if tensor.numel()}) == len(every)
    per_norm = len(norms.others[0].state_dict())
    assert per_norm == 6 * 3 + 5 * 2  # three buffers; five of the six have weight and bias
    assert 'index' in norms.state_dict()
    assert '2.b.1.running_var' in norms.state_dict()
    before = {name: id(p) for name, p in model.named_parameters()}
    pruner.switch_subnet(cfgs, 1)
    pruner.switch_subnet(cfgs, 0)
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_a_module_with_other_weights_is_no_norm():
    class Own(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 3, 1)
            self.register_buffer('running_mean', torch.zeros(3))

    norms = SwitchableNorms(nn.Sequential(Own(), nn.BatchNorm2d(3)), 2)
    assert list(norms.others[0]._modules) == ['1']


def test_numbers_that_do_not_fit_are_refused_and_nothing_is_changed():
    model, pruner, cfgs, _ = prepare()
    before = contents(model)
    with pytest.raises(InputError, match='2 channel configs, but switchable norms for 3 subnets'):
        pruner.switch_subnet(cfgs[:2], 1)
    with pytest.raises(InputError, match='no subnet 3'):
        pruner.switch_subnet(cfgs, 3)
    with pytest.raises(InputError, match='for 1 subnet or more, not 0'):
        pruner.switchable_norms(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in contents(model).items())
    pruner.prepare_from_supernet(model, IMAGES)  # and norms are asked for anew
    pruner.switch_subnet(cfgs[:2], 1)
