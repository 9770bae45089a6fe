"""Fixed positions: cut with what they are added to, in every way in which a network is deployed."""

import pickle

import pytest
import torch
from toy_checks import prepared
from toys_sampled import FixedPositions, Sines

import mmprune
from mmprune.layers import KeptOutputs, outputs_to_keep
from mmprune.testing import randomise, scattered

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return randomise(FixedPositions().double()).eval()


@pytest.fixture
def pruned(network):
    return mmprune.prune(network, IMAGES, ratio=0.5)


def test_the_network_keeps_its_own_module(network, pruned):
    assert type(network.positions) is Sines
    assert type(pruned.network.positions) is KeptOutputs
    assert pruned.network.positions.feats == 4  # what its owner may ask for
    assert pruned.network.state_dict().keys() == network.state_dict().keys()


def test_images_of_another_size_have_other_positions(pruned):
    images = torch.randn(1, 3, 6, 12, dtype=torch.float64)
    small = pruned.network(images)
    assert small.shape == (1, 6 * 12 + 3 * 6, 4)


def test_a_config_is_enough_for_a_plain_network(network, pruned, tmp_path):
    mmprune.save(pruned, tmp_path / 'small.pth')
    loaded = mmprune.load(tmp_path / 'small.pth', network)
    assert type(network.positions) is Sines
    torch.testing.assert_close(loaded(IMAGES), pruned.network(IMAGES), rtol=0, atol=0)


def test_it_is_pickled_and_deployed_in_place(pruned):
    unpickled = pickle.loads(pickle.dumps(pruned.network))
    torch.testing.assert_close(unpickled(IMAGES), pruned.network(IMAGES), rtol=0, atol=0)
    model, data, pruner = prepared(FixedPositions)
    pruner.set_subnet(scattered(pruner))
    small = model(data)
    pruner.deploy_in_place()
    assert type(model.positions) is KeptOutputs
    torch.testing.assert_close(model(data), small)


def test_types_without_large_numbers_keep_the_channels(pruned):
    kept = pruned.network.positions.places.clone()
    pruned.network.bfloat16()
    assert pruned.network.positions.places.dtype == torch.float32
    assert torch.equal(pruned.network.positions.places, kept)


def test_a_small_network_is_pruned_again(pruned):
    smaller = mmprune.prune(pruned.network, IMAGES, ratio=0.5).network
    assert type(smaller.positions.module) is Sines
    assert set(smaller.positions.places.tolist()) < set(pruned.network.positions.places.tolist())


def test_a_module_that_gives_several_widths_is_left_alone():
    images, rows = [('a', (2, 8, 4, 4)), ('a', (2, 8, 2, 2))], [('b', (2, 5, 8)), ('b', (2, 5, 7))]
    assert outputs_to_keep([*images, *rows, ('c', (5, 16))]) == {'a': (1, 8), 'c': (1, 16)}
