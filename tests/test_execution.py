"""Both ways of running a subnet: compiled, in mixed precision, and with weights that change."""

import copy

import pytest
import torch
from randomised import randomise
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmprune.execution.observed_run import relative_error
from mmprune.registry import PRUNERS


class Mixed(nn.Module):
    """Convolutions with and without norms, a residual, a depthwise one, a norm of a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.n = nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.m = nn.BatchNorm2d(16)
        self.d = nn.Conv2d(16, 16, 3, groups=16)
        self.l = nn.LayerNorm(24)
        self.e = nn.Linear(16, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.n(self.a(x)).relu()
        x = self.m(self.b(x)).relu() + x
        x = self.d(x).sigmoid().mean((2, 3))
        return self.head(self.l(self.e(x)).tanh())


def prepared(execution, dtype=torch.float64):
    network = randomise(Mixed().double()).to(dtype).eval()
    pruner = PRUNERS.build(
        dict(
            type='RatioPruner',
            ratios=[0.25, 0.5, 0.75],
            importance=dict(type='RandomImportance', seed=3),
            execution=execution,
        )
    )
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8, dtype=dtype)
    pruner.prepare_from_supernet(network, images)
    return pruner, network, images


def test_a_compiled_masked_supernet_is_not_compiled_again_for_other_subnets():
    pruner, network, images = prepared('mask')
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter)
    everything = {name: torch.ones_like(mask) for name, mask in pruner.channel_spaces.items()}
    subnets = [pruner.sample_subnet() for _ in range(4)]
    for subnet in (subnets[0], everything, *subnets[1:]):
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(network, pruner.export_subnet())
        with torch.no_grad():
            assert relative_error(compiled(images), deployed(images)) < 1e-12
        assert counter.frame_count == 1
    network.train()
    for subnet in subnets:
        pruner.set_subnet(subnet)
        compiled(images).square().sum().backward()
    assert counter.frame_count == 2, 'once more for training, and not again'


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_mixed_precision_trains_the_subnet_as_it_trains_the_deployed_network(execution):
    pruner, network, images = prepared(execution, torch.float32)
    pruner.set_subnet(pruner.sample_subnet())
    deployed = pruner.deploy_subnet(network, pruner.export_subnet())
    losses = []
    for model in (network.train(), deployed.train()):
        with torch.autocast('cpu', torch.bfloat16):
            loss = model(images).square().mean()
        loss.backward()
        losses.append(loss.detach())
    assert torch.isclose(*losses, rtol=2e-2)
    kept = network.a.out_mask.flatten().bool()
    gradients = network.n.bias.grad[kept], deployed.n.bias.grad
    assert relative_error(*gradients) < 0.05  # bfloat16 has 8 bits
    assert not network.n.bias.grad[~kept].any()


def _in_place(network):
    with torch.no_grad():
        network.b.weight.mul_(-1.5)


def _optimizer(network):
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.ones(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    optimizer.step()


def _load(network):
    state = network.state_dict()
    state['b.weight'] = state['b.weight'] * 2
    network.load_state_dict(state)


def _new_storage(network):
    network.b.weight.data = network.b.weight.data * 2


def _swap_averages_in(network):
    network.b.weight.data.mul_(2)  # as hooks that average weights do, before they evaluate
    network.eval()


@pytest.mark.parametrize('change', [_in_place, _optimizer, _load, _new_storage, _swap_averages_in])
@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_weights_that_change_are_seen(execution, change):
    pruner, network, images = prepared(execution)
    pruner.set_subnet(pruner.sample_subnet())
    with torch.no_grad():
        before = network(images)
    change(network)
    deployed = pruner.deploy_subnet(network, pruner.export_subnet())
    with torch.no_grad():
        after = network(images)
        assert relative_error(after, before) > 1e-3
        assert relative_error(after, deployed(images)) < 1e-12


def test_a_copy_made_while_a_subnet_is_set_does_not_share_what_was_computed():
    pruner, network, images = prepared('slice')
    pruner.set_subnet(pruner.sample_subnet())
    with torch.no_grad():
        network(images)
        copied = copy.deepcopy(network)
        copied.b.weight.mul_(2)
        expected = pruner.deploy_subnet(copied, pruner.export_subnet())(images)
        assert relative_error(copied(images), expected) < 1e-12
        assert relative_error(copied(images), network(images)) > 1e-3


def test_convolutions_before_norms_are_not_masked():
    pruner, *_ = prepared('mask')
    pruner.set_subnet(pruner.sample_subnet())
    swapped = {name: sorted(state.own) for name, state in pruner.supernet.execution.states.items()}
    assert swapped['a'] == swapped['b'] == []
    assert swapped['n'] == ['bias', 'running_mean', 'running_var', 'weight']
    assert swapped['e'] == ['bias', 'weight'], 'its input is what a sigmoid makes of zeros'
