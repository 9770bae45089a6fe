"""The third computation: right on toy networks, and wrong when the channel config is."""

import copy

import pytest
import torch
from randomised import randomise, scattered
from torch import nn
from toy_networks import TOYS

from mmprune.registry import PRUNERS
from mmprune.trace.tracer import run_model, tensors_in
from mmprune.zoo import build, images, zeroed
from mmprune.zoo.check import difference, measure, run
from mmprune.zoo.independent import KeptNorm


@pytest.mark.parametrize('toy', TOYS, ids=lambda toy: toy.__name__)
def test_toy_networks(toy):
    model = randomise(toy().double()).eval()
    original = copy.deepcopy(model)
    data = torch.randn(toy.INPUT, dtype=torch.float64) if toy.INPUT is not None else {
        'grey': torch.randn(2, 1, 8, 8, dtype=torch.float64),
        'depth': torch.randn(2, 4, 8, 8, dtype=torch.float64),
    }  # fmt: skip
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, data)
    for seed in range(2):
        pruner.set_subnet(scattered(pruner, seed))
        channel_cfg = pruner.export_subnet()
        with torch.no_grad():
            small = tensors_in(run_model(pruner.deploy_subnet(model, channel_cfg), data))
            ours = tensors_in(run_model(zeroed(original, channel_cfg), data))
        for one, other in zip(ours, small, strict=True):
            assert difference(one, other) < 1e-10


@pytest.fixture(scope='module')
def resnet():
    original = build('resnet18')
    batch = images(original)
    return original, batch, measure(copy.deepcopy(original), batch, 0.5, 0)


@pytest.mark.parametrize(
    ('layer', 'side'),
    [
        ('backbone.conv1', 'out'),
        ('backbone.layer1.0.conv1', 'out'),
        ('backbone.layer2.0.conv1', 'in'),
        ('backbone.layer3.0.downsample.0', 'in'),
        ('backbone.layer4.1.bn2', 'out'),
        ('head.fc', 'in'),
    ],
)
def test_one_wrong_channel_number_shows(resnet, layer, side):
    original, batch, measured = resnet
    wrong = copy.deepcopy(measured.pruner.export_subnet())
    index = wrong[layer][f'{side}_index']
    dropped = set(range(wrong[layer][f'raw_{side}_channels'])) - set(index)
    index[0] = min(dropped)
    assert difference(run(zeroed(original, wrong), batch), measured.output) > 1e-6


def test_the_original_is_left_alone(resnet):
    original, batch, measured = resnet
    before = run(original, batch)
    zeroed(original, measured.pruner.export_subnet())
    assert torch.equal(run(original, batch), before)


def test_all_channels_kept_is_the_original():
    original = build('convnext/convnext-tiny')
    batch = images(original)
    everything = measure(copy.deepcopy(original), batch, 1.0, 0).pruner.export_subnet()
    assert difference(run(zeroed(original, everything), batch), run(original, batch)) < 1e-12


@pytest.mark.parametrize('groups', [1, 2])
def test_kept_norm_is_the_small_norm_among_zeros(groups):
    torch.manual_seed(0)
    kept = torch.tensor([0, 3, 4, 7])
    data = torch.randn(2, 8, 5, dtype=torch.float64)
    full = randomise(nn.GroupNorm(groups, 8).double())
    small = nn.GroupNorm(groups, 4).double()
    small.load_state_dict({key: value[kept] for key, value in full.state_dict().items()})
    result = KeptNorm(full, kept)(data)
    torch.testing.assert_close(result[:, kept], small(data[:, kept]))
    assert (result[:, [1, 2, 5, 6]] == 0).all()
