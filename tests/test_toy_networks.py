"""Every toy network: its groups are the expected ones, and all its subnets are exact."""

import copy
import warnings

import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from toy_checks import (
    assert_exact,
    assert_groups,
    assert_plain,
    assert_trains,
    demo_input,
    prepared,
)
from toy_networks import TOYS

from mmprune.registry import PRUNERS


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_groups_are_the_expected_ones(toy):
    _, _, pruner = prepared(toy)
    assert_groups(toy, pruner)


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_masked_sliced_and_deployed_are_equal(toy, execution):
    model, data, pruner = prepared(toy, execution)
    assert_exact(toy, model, data, pruner, seeds=3)


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_deployed_is_plain_small_and_separate(toy):
    assert_plain(toy, *prepared(toy))


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_training_a_subnet_trains_the_deployed_network(toy, execution):
    assert_trains(*prepared(toy, execution))


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
