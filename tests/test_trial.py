"""The trial of a prepared network: on which images it is made, and what counts as a proof."""

import pytest
import torch
from torch import nn

from mmprune.registry import PRUNERS
from mmprune.supernet.trial import smaller_roads
from mmprune.trace import Road


class Seen:
    """What a model has noted; a trial leaves it as it is, since it is no container."""

    def __init__(self):
        self.seen = []


class CountsItsChannels(nn.Module):
    """Its forward multiplies by a size that has come through a text: slices and masks differ."""

    def __init__(self, on_small_images):
        super().__init__()
        self.on_small_images, self.sizes = on_small_images, Seen()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        self.sizes.seen.append(int(x.shape[-1]))
        y = self.a(x)
        factor = self.on_small_images if x.shape[-1] < 128 else int(str(y.shape[1]))
        return self.b(y * factor).mean((2, 3))


def prepared(on_small_images):
    torch.manual_seed(0)
    model = CountsItsChannels(on_small_images)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.rand(1, 3, 128, 128))
    return model, pruner


def test_images_of_half_the_size_are_tried_and_are_enough():
    # What the network does on the others is not tried: verification is there for that.
    model, pruner = prepared(on_small_images=2)
    assert set(model.sizes.seen[-2:]) == {64}
    assert pruner.channel_groups['a'].prunable
    assert not pruner.verify_subnet(model).ok


@pytest.mark.parametrize(
    ('size', 'parts'),
    [
        ((224, 224), [(64, 64), (96, 96)]),
        ((128, 256), [(64, 64), (64, 128)]),
        ((640, 480), [(192, 128), (256, 160)]),
        ((299, 299), []),
        ((96, 224), []),
    ],
)
def test_parts_of_images_are_multiples_of_what_networks_need(size, parts):
    found = smaller_roads(Road('eval', torch.zeros(1, 3, *size)))
    assert [tuple(road.input.shape[-2:]) for road in found] == parts


class NeedsPixels(nn.Module):
    """Pools by seven at the end of three halvings, which 48 pixels are too few for."""

    def __init__(self):
        super().__init__()
        self.sizes = Seen()
        self.a, self.b = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 4, 9)

    def forward(self, x):
        self.sizes.seen.append(int(x.shape[-1]))
        return self.b(self.a(x)).mean((2, 3))


def test_a_network_that_needs_larger_parts_is_tried_on_them():
    model = NeedsPixels()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(model, torch.rand(1, 3, 224, 224))
    assert model.sizes.seen[-3:] == [64, 96, 96]
    assert pruner.channel_groups['a'].prunable


def test_what_is_not_finite_on_smaller_images_proves_nothing():
    model, pruner = prepared(on_small_images=float('nan'))
    assert 128 in model.sizes.seen[-2:]
    assert not pruner.channel_groups['a'].prunable
    assert 'a' not in pruner.channel_spaces
