"""Every toy network: its groups are the expected ones, and all its subnets are exact."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy_networks import TOYS

from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model, tensors_in


def demo_input(toy):
    if toy.INPUT is None:
        return {
            'grey': torch.randn(2, 1, 8, 8, dtype=torch.float64),
            'depth': torch.randn(2, 4, 8, 8, dtype=torch.float64),
        }
    return torch.randn(toy.INPUT, dtype=torch.float64)


def prepared(toy, execution='slice'):
    torch.manual_seed(0)
    model = randomise(toy().double()).eval()
    data = demo_input(toy)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, data)
    return model, data, pruner


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_are_the_expected_ones(toy):
    _, _, pruner = prepared(toy)
    found = {
        space_id: (group.num_channels, set(group.layers), set(group.consumers))
        for space_id, group in pruner.channel_groups.items()
        if group.prunable
    }
    assert found == toy.GROUPS
    pinned = {space_id for space_id, group in pruner.channel_groups.items() if not group.prunable}
    assert pinned == toy.PINNED
    assert all(pruner.channel_groups[space_id].reason for space_id in pinned)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_masked_sliced_and_deployed_are_equal(toy, execution):
    model, data, pruner = prepared(toy, execution)
    with torch.no_grad():
        full = tensors_in(run_model(model, data))
    for seed in range(3):
        subnet = scattered(pruner, seed)
        pruner.set_subnet(subnet)
        deployed = pruner.deploy_subnet(model, pruner.export_subnet())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            small = tensors_in(run_model(deployed, data))
        with torch.no_grad():
            inside = tensors_in(run_model(model, data))
        for ours, theirs, before in zip(inside, small, full, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
            assert ours.abs().max() > 1e-3
            assert not torch.allclose(ours, before, rtol=1e-3), 'the subnet removed nothing'
        cost = pruner.cost(subnet)
        assert cost['params'] == sum(p.numel() for p in deployed.parameters())
        assert 2 * cost['macs'] == counter.get_total_flops()
    assert pruner.verify_subnet(model, subnet).ok


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_deployed_is_plain_small_and_separate(toy):
    model, data, pruner = prepared(toy)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    for name, tensor in deployed.state_dict().items():
        assert tensor.untyped_storage().data_ptr() not in own, name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
    for module in deployed.modules():
        assert 'forward' not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert '_mmprune' not in module.__dict__
    unpickled = pickle.loads(pickle.dumps(deployed))
    results = [tensors_in(run_model(network.eval(), data)) for network in (deployed, unpickled)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    plain_names = set(toy().state_dict())
    assert set(deployed.state_dict()) == plain_names
    pruner.set_max_channel()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    for (name, ours), theirs in zip(deployed.named_parameters(), toy().parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad, name
    sizes = []
    for network in (toy().double(), deployed):
        file = io.BytesIO()
        torch.save({n: t.numpy().tobytes() for n, t in network.state_dict().items()}, file)
        sizes.append(file.tell())
    assert sizes[1] < sizes[0]


def train_step(model, data, learning_rate=1e-2):
    """One step of gradient descent on a loss that every output enters."""
    model.train()
    outputs = tensors_in(run_model(model, data))
    loss = sum((out - 0.3).square().mean() for out in outputs)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.requires_grad:
                parameter -= learning_rate * parameter.grad
    return loss.detach()


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_training_a_subnet_trains_the_deployed_network(toy, execution):
    """Two steps in the supernet, then deploy; or deploy, then two steps: the same network."""
    model, data, pruner = prepared(toy, execution)
    pruner.set_subnet(scattered(pruner))
    cfg = pruner.export_subnet()
    deployed = pruner.deploy_subnet(model, cfg)
    for _ in range(2):
        inside, outside = train_step(model, data), train_step(deployed, data)
        torch.testing.assert_close(inside, outside, rtol=1e-9, atol=1e-12)
    again = pruner.deploy_subnet(model, cfg)
    for (name, ours), theirs in zip(
        again.state_dict().items(), deployed.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: n + m)


def test_a_deep_copy_of_a_prepared_model_runs_its_own_weights():
    model, data, pruner = prepared(TOYS[0])
    pruner.set_subnet(scattered(pruner))
    copied = copy.deepcopy(model)
    expected = model(data)
    torch.testing.assert_close(copied(data), expected, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied(data).abs().max() == 0
    torch.testing.assert_close(model(data), expected, rtol=0, atol=0)


def test_preparing_keeps_pretrained_norms():
    model = randomise(TOYS[0]().double()).eval()
    data = demo_input(TOYS[0])
    expected, state = model(data), {k: v.clone() for k, v in model.state_dict().items()}
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    torch.testing.assert_close(model(data), expected, rtol=0, atol=0)
    for name, value in state.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(('bins', 'channels'), [(12, 16), (24, 16), (5, 16), (16, 16)])
def test_all_bins_keep_all_channels(bins, channels):
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 3))
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    pruner.prepare_from_supernet(model, torch.randn(1, 3, 8, 8))
    full = pruner.get_max_channel_bins(bins)
    pruner.set_channel_bins(full, bins)
    assert [int(mask.sum()) for mask in pruner.current_subnet().values()] == [channels]
    kept = []
    for drop in range(bins):
        full['0'][drop] = 0
        kept.append(int(pruner.bins_to_subnet(full, bins)['0'].sum()))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 1


class DeepResidual(nn.Module):
    """Residual blocks without norm: MMRazor needs exponential time for them."""

    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(x)


def test_deep_residual_networks_trace_without_recursion():
    model = DeepResidual(1500)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.randn(1, 3, 4, 4))
    assert len(pruner.channel_spaces) == 1
    assert len(pruner.channel_groups['stem'].layers) == 1501


def test_a_deployed_network_can_be_scripted():
    model, data, pruner = prepared(TOYS[0])
    pruner.set_subnet(scattered(pruner))
    deployed = pruner.deploy_subnet(model, pruner.export_subnet())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # torch.jit itself
        scripted = torch.jit.script(deployed)
    torch.testing.assert_close(scripted(data), deployed(data), rtol=0, atol=0)
