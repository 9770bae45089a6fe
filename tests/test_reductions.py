"""Reductions over channels: over the kept ones, masked or sliced; or pinned."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_checks import assert_exact, assert_trains, prepared
from toy_networks import Chain, Toy, conv
from toys_norms import NormOfBlocks

from mmprune.registry import PRUNERS

ALIKE = {
    'mean': lambda x: x.mean(1, True),
    'mean, a name for the tensor': lambda x: torch.mean(input=x, dim=1, keepdim=True),
    'mean of all': lambda x: x.mean(),
    'mean over several dims': lambda x: x.mean((1, 2, 3))[:, None, None, None],
    'mean over a dim from the left': lambda x: x.transpose(0, 1).mean(0)[:, None],
    'mean over space of as many positions': lambda x: x.mean(-1, keepdim=True) + x.mean(1, True),
    'sum': lambda x: torch.sum(x, dim=(1, 2), keepdim=True),
    'amax': lambda x: x.amax(1, keepdim=True),
    'max': lambda x: x.max(dim=1, keepdim=True)[0],
    'max of all': lambda x: x.max(),
    'amin': lambda x: x.amin((1, 2), keepdim=True),
    'min': lambda x: x.min(1)[0][:, None],
    'logsumexp': lambda x: x.logsumexp(1, keepdim=True),
    'var': lambda x: x.var(1, keepdim=True),
    'var of a population': lambda x: x.var(dim=(1, 2), unbiased=False, keepdim=True),
    'var of all': lambda x: x.var(False),
    'std': lambda x: torch.std(x, (1, 3), False, True),
    'std with a correction': lambda x: x.std(1, correction=2, keepdim=True),
    'var_mean': lambda x: torch.stack(torch.var_mean(x, 1, keepdim=True)).prod(0),
    'std_mean': lambda x: torch.stack(torch.std_mean(x, dim=1))[0][:, None],
    'norm': lambda x: x.norm(dim=1, keepdim=True),
    'norm of all': lambda x: x.norm(),
    'absolute norm': lambda x: torch.norm(x, 1, 1, True),
    'largest absolute value': lambda x: torch.linalg.vector_norm(x, float('inf'), 1, True),
    'normalize': lambda x: F.normalize(x) - 1,
    'cosine similarity': lambda x: F.cosine_similarity(x, F.relu(x), dim=1)[:, None],
    'two at once': lambda x: x.std(1, keepdim=True) / (1 + x.abs().mean((1, 2, 3), keepdim=True)),
}
PINNED = {
    'prod': (lambda x: x.prod(1, keepdim=True), 'ProdBackward1 in the root module takes the prod'),
    'number of elements that are not 0': (
        lambda x: torch.linalg.vector_norm(x, 0, 1, True),
        'takes the linalgvectornorm over the channels',
    ),
    'smallest absolute value': (
        lambda x: torch.linalg.vector_norm(x, -float('inf'), 1, True),
        'takes the linalgvectornorm over the channels',
    ),
    'median': (lambda x: x.median(1, keepdim=True)[0], 'MedianBackward1, which mmprune does not'),
    'cumprod': (lambda x: x.cumprod(1), 'CumprodBackward0, which mmprune does not know'),
    'softmax': (lambda x: x.softmax(1), 'normalises over the channels'),
    'sort': (lambda x: x.sort(1)[0], 'SortBackward0 in the root module goes along the channels'),
}


def network(how):
    class Reducing(Toy):
        GROUPS = Chain.GROUPS

        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            x = self.norm(self.a(x))
            return self.head(F.relu(self.b(x * (1 + how(x)))).mean((2, 3)))

    return Reducing


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('name', ALIKE)
def test_over_the_kept_channels(name, execution):
    toy = network(ALIKE[name])
    model, data, pruner = prepared(toy, execution)
    assert list(pruner.channel_spaces) == ['a', 'b']
    assert_exact(toy, model, data, pruner, seeds=1)
    assert_trains(model, data, pruner)


@pytest.mark.parametrize('name', PINNED)
def test_pinned(name):
    how, reason = PINNED[name]
    toy = network(how)
    model, data, pruner = prepared(toy)
    assert list(pruner.channel_spaces) == ['b']
    assert reason in pruner.channel_groups['a'].reason
    assert_exact(toy, model, data, pruner, seeds=1)


@pytest.mark.parametrize('batch', [1, 3])
def test_a_norm_over_blocks_of_channels_sees_those_of_every_sample(batch):
    """In masked training the samples may be others in number than those that were traced."""
    torch.manual_seed(0)
    network = NormOfBlocks().double()
    pruner = PRUNERS.build(
        dict(type='RatioPruner', _scope_='mmprune', ratios=[0.5, 1.0], execution='mask')
    )
    pruner.prepare_from_supernet(network, demo_input=torch.rand(2, 3, 8, 8).double())
    subnet = pruner.channel_spaces
    subnet['a'] = torch.tensor([0.0, 1.0])
    pruner.set_subnet(subnet)
    deployed = pruner.deploy_subnet(network, pruner.export_subnet())
    data = torch.rand(batch, 3, 8, 8).double()
    torch.testing.assert_close(network.train()(data), deployed.train()(data))
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(network.norm, name), getattr(deployed.norm, name))
